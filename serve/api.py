"""The HTTP API, assembled: routes, keys, problems and headers around the stages. `create_app` builds it around any
stages, so tests need no Ray; `Api` is the same as a Ray Serve ingress, around handles."""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from ray import serve
from ray.serve.handle import DeploymentHandle

from gatefold.config import ServeSettings
from serve import problems, replica
from serve.contracts import Health, Problem
from serve.covers import CoverRoutes
from serve.envelope import Envelope
from serve.handles import EncoderHandle, PainterHandle, RetrieverHandle, ServeReadiness
from serve.jobs import InProcessJobs, JobTable
from serve.keys import Keys
from serve.page import Examples, install_page
from serve.songs import SongRoutes
from serve.stages import ServedRelease, Stages
from serve.studio import Studio

BEARER = HTTPBearer(auto_error=False, description="an API key, where the endpoint has any configured")


def create_app(stages: Stages, *, limits: ServeSettings, jobs: JobTable, keys: Keys, examples: Examples) -> FastAPI:
    """The API and the page around these stages."""
    app = FastAPI(
        title="gatefold",
        version="1",
        description="A song goes in; the covers closest to it come out, and new covers from what those have in common.",
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
    )
    problems.install(app)
    songs = SongRoutes(stages, limits, cache="private" if keys.required else "public")
    covers = CoverRoutes(stages, Studio(stages, jobs), limits)
    v1 = APIRouter(prefix="/v1", dependencies=[Depends(_gate(keys))])
    v1.include_router(songs.router())
    v1.include_router(covers.router())
    app.include_router(_health(stages))
    app.include_router(v1)
    app.include_router(examples.router())
    install_page(app)
    app.add_middleware(Envelope)
    return app


class Api:
    """The ingress. One replica, as long as the table of jobs lives in its memory.

    Args:
        release: what the other deployments were built from.
        examples: folder of songs to try, on the node that runs the replica.
    """

    def __init__(
        self,
        release: ServedRelease,
        encoder: DeploymentHandle,
        retriever: DeploymentHandle,
        generator: DeploymentHandle,
        *,
        limits: ServeSettings,
        examples: str | None,
        endpoint_url: str | None,
    ) -> None:
        replica.enter(endpoint_url)  # covers of the catalogue are read here
        readiness = ServeReadiness(serve.get_replica_context().app_name)
        self._stages = Stages(
            release, EncoderHandle(encoder), RetrieverHandle(retriever), PainterHandle(generator), readiness
        )
        self._limits = limits
        self._examples = Examples(None if examples is None else Path(examples))

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve, once, when the replica has been constructed."""
        return create_app(
            self._stages,
            limits=self._limits,
            jobs=InProcessJobs(under_way_max=self._limits.jobs_max, kept_max=self._limits.jobs_kept),
            keys=Keys.from_environment(os.environ),
            examples=self._examples,
        )


def _gate(keys: Keys) -> Callable[..., Awaitable[None]]:
    async def gate(request: Request, shown: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> None:
        """Lets in who shows a key, or anyone where none is configured; notes who it is."""
        request.state.caller = keys.caller(shown.credentials if shown else None)

    return gate


def _health(stages: Stages) -> APIRouter:
    router = APIRouter(prefix="/v1/health", tags=["health"])

    @router.get("/live")
    async def live() -> Health:
        """That this process answers."""
        return Health(status="live")

    @router.get("/ready")
    async def ready() -> Health:
        """That requests can be answered."""
        await stages.readiness.check()
        return Health(status="ready")

    return router
