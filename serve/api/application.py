"""The HTTP API, assembled: routes, keys, problems and headers around the stages on duty. `create_app` builds it around
any rota, so tests need no Ray; `Api` is the same as a Ray Serve ingress, which other releases take turns behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from gatefold.config import ServeSettings
from gatefold.workspace import Workspace
from serve.active_release import Rota
from serve.api import problems
from serve.api.contracts import Health
from serve.api.covers import CoverRoutes
from serve.api.description import DescribedApi, operation_id
from serve.api.page import Examples, install_page
from serve.api.songs import SongRoutes
from serve.api.thumbnails import Thumbnails
from serve.deployments import replica
from serve.deployments.handles import EncoderHandle, GeneratorHandle, RetrieverHandle, ServeReadiness, call
from serve.deployments.release import Crew, Release
from serve.interfaces import Stages
from serve.jobs.jobs import InProcessJobs, JobTable
from serve.jobs.runner import JobRunner
from serve.middleware.hosts import Hosts
from serve.middleware.intake import Intake
from serve.middleware.keys import Keys
from serve.middleware.security_headers import Envelope
from serve.optout_filter import OptOuts

COMPRESSED_FROM_BYTES = 2048
"""smaller answers go out as they are; so do pictures, sounds and event streams"""
COMPRESSION = 1
"""of gzip, the quickest: a hundred matches, 20 kB, become 6 kB in 0.2 ms"""
CORS_SENT = ["Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID", "Prefer", "Range"]
CORS_READ = ["Content-Range", "ETag", "Location", "Preference-Applied", "Retry-After", "X-Request-Id"]
BEARER = HTTPBearer(auto_error=False, description="an API key")


def create_app(
    rota: Rota, *, limits: ServeSettings, jobs: JobTable, keys: Keys, examples: Examples, thumbnails: Thumbnails
) -> FastAPI:
    """The API and the page around the stages of this rota."""

    @asynccontextmanager
    async def looking_for_optouts(_: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(rota.optouts.keep_looking(limits.look_every_s))
        yield
        looking.cancel()

    app = DescribedApi(
        limits,
        title="gatefold",
        version="1",
        description="A song goes in; the covers closest to it come out, and new covers from what those have in common.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        lifespan=looking_for_optouts,
    )
    problems.install(app)
    songs = SongRoutes(rota, limits, thumbnails, cache="private" if keys.required else "public")
    covers = CoverRoutes(rota, JobRunner(rota, jobs), limits)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(_gate(keys))])
    v1.include_router(songs.router())
    v1.include_router(covers.router())
    app.include_router(_health(rota))
    app.include_router(v1)
    app.include_router(examples.router())
    install_page(app)
    _surround(app, limits)
    return app


def _surround(app: FastAPI, limits: ServeSettings) -> None:
    """What lies around every route; what is added last sees a request first."""
    app.add_middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM_BYTES, compresslevel=COMPRESSION)
    app.add_middleware(Intake, limits=limits)
    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=CORS_SENT,
            expose_headers=CORS_READ,
        )
    app.add_middleware(Hosts, allowed=limits.hosts)
    app.add_middleware(Envelope)


class Api:
    """The ingress. One replica, as long as the table of jobs lives in its memory; it outlives every release.

    Args:
        workspace: URI; opt-outs are read and written there.
        examples: folder of songs to try, on the node that runs the replica.
        keys: SHA-256 of each API key; the endpoint is open where there is none.
    """

    def __init__(
        self,
        workspace: str,
        *,
        limits: ServeSettings,
        examples: str | None,
        endpoint_url: str | None,
        keys: tuple[str, ...],
    ) -> None:
        replica.enter(endpoint_url)  # opt-outs and covers of the catalogue are read here
        self._rota = Rota(OptOuts(Workspace(workspace)))
        self._thumbnails = Thumbnails(Workspace(workspace), limits.thumbnail_cache_bytes)
        self._limits = limits
        self._keys = Keys(frozenset(keys))
        self._examples = Examples(None if examples is None else Path(examples))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve, once, when the replica has been constructed."""
        return create_app(
            self._rota,
            limits=self._limits,
            jobs=InProcessJobs(under_way_max=self._limits.jobs_max, kept_max=self._limits.jobs_kept),
            keys=self._keys,
            examples=self._examples,
            thumbnails=self._thumbnails,
        )

    async def reconfigure(self, duty: dict[str, Any]) -> None:
        """`user_config`: the application of the release that new requests get, and how searches cross to it. Waits
        until it is there."""
        application: str = duty["release"]
        crew: Crew = await call(DeploymentHandle(Release.__name__, application).crew)
        self._rota.change_to(
            Stages(
                crew.release,
                EncoderHandle(crew.encoder),
                RetrieverHandle(crew.retriever, **duty["searches"]),
                GeneratorHandle(crew.generator),
                ServeReadiness(serve.get_replica_context().app_name, application),
            )
        )

    async def in_use(self) -> list[str]:
        """Versions of the release on duty, which comes first, and of those that still have work to finish."""
        return self._rota.in_use()


def _gate(keys: Keys) -> Callable[..., Awaitable[None]]:
    async def open_gate(request: Request) -> None:
        """Lets anyone in."""
        request.state.caller = keys.caller(None)

    async def gate(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        """Lets in who shows a key; notes who it is."""
        request.state.caller = keys.caller(shown.credentials if shown else None)

    return gate if keys.required else open_gate  # which of them it is, the description says


def _health(rota: Rota) -> APIRouter:
    router = APIRouter(prefix="/v1/health", tags=["health"])

    @router.get("/live")
    async def live() -> Health:
        """That this process answers."""
        return Health(status="live")

    @router.get("/ready")
    async def ready() -> Health:
        """That requests can be answered."""
        with rota.on_duty() as serving:
            await serving.readiness.check()
        return Health(status="ready")

    return router
