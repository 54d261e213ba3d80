"""The HTTP API, assembled: routes, keys, problems and headers around the active release.

`create_app` builds it around any services, so tests need no Ray; `Api` is the same as a Ray Serve ingress, whose
active release can be switched.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from ray.serve.handle import DeploymentHandle
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError
from gatefold.workspace import Workspace
from serve.access.audit import AuditLog
from serve.access.authorization import PREFIX, Authorization
from serve.access.key_ring import KeyRing
from serve.access.keys import KeyStore
from serve.access.own_jobs import OwnJobs
from serve.access.rates import RateLimits
from serve.access.routes import AccessRoutes
from serve.access.usage import UsageCounter
from serve.active_release import ActiveRelease
from serve.api import problems
from serve.api.contracts import Health
from serve.api.covers import CoverRoutes
from serve.api.description import DescribedApi, operation_id
from serve.api.exports import CoverFiles, ExportOptions, ExportRoutes
from serve.api.page import Examples, install_page
from serve.api.songs import SongRoutes
from serve.api.thumbnails import Thumbnails
from serve.batches.routes import BatchRoutes
from serve.batches.store import BatchStore
from serve.deployments import replica
from serve.deployments.release import services_of
from serve.jobs.database import Database
from serve.jobs.files import JobFiles
from serve.jobs.store import JobStore
from serve.middleware.accounting import AccountingMiddleware
from serve.middleware.hosts import AllowedHostsMiddleware
from serve.middleware.intake import BodyAdmissionMiddleware
from serve.middleware.keys import Keys
from serve.middleware.request_context import RequestContextMiddleware
from serve.middleware.security_headers import SecurityHeadersMiddleware
from serve.middleware.sunset import SunsetMiddleware
from serve.observability.tracing import TraceArgs
from serve.optout_filter import OptOuts
from serve.webhooks.outbox import Outbox
from serve.webhooks.routes import DeliveryRoutes, describe_events

logger = logging.getLogger(__name__)

COMPRESSED_FROM_BYTES = 2048
"""smaller answers go out as they are; so do pictures, sounds and event streams"""
COMPRESSION = 1
"""of gzip, the quickest: a hundred matches, 20 kB, become 6 kB in 0.2 ms"""
CORS_SENT = [
    "Authorization",
    "Cancel-After",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Last-Event-ID",
    "Prefer",
    "Range",
    "traceparent",
    "X-Request-Id",
]
CORS_READ = [
    "Content-Range",
    "ETag",
    "Idempotent-Replayed",
    "Location",
    "Preference-Applied",
    "RateLimit-Limit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    "Retry-After",
    "X-Request-Id",
]


@dataclass(frozen=True)
class Records:
    """What the API keeps in the database beside its jobs, and reads from there."""

    database: Database
    store: JobStore
    ring: KeyRing
    usage: UsageCounter
    audit: AuditLog


def create_app(
    active: ActiveRelease,
    *,
    limits: ServeSettings,
    database: Database,
    files: JobFiles,
    keys: Keys,
    examples: Examples,
    thumbnails: Thumbnails,
    exports: ExportOptions | None = None,
    webhooks: bool = False,
    answers_id: bool = True,
) -> FastAPI:
    """The API and the page around the services of this active release; what runs jobs is not part of it.

    Args:
        keys: of the environment of `gatefold serve`; those of the database are accepted as well.
        exports: as by default when None.
        webhooks: whether what runs jobs signs and delivers them.
        answers_id: whether X-Request-Id is added to each answer; Ray Serve's proxy does it by itself.
    """
    jobs, ring = JobStore(database, limits, webhooks=webhooks), KeyRing(keys, KeyStore(database))
    records = Records(database, jobs, ring, UsageCounter(database), AuditLog(database))
    own = OwnJobs(records.store, records.audit)
    app = DescribedApi(
        limits,
        lambda: ring.required,
        title="gatefold",
        version="1",
        description="A song goes in; the covers closest to it come out, and new covers from what those have in common.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        lifespan=_lifespan(active, limits, records),
    )
    problems.install(app)
    pictures = CoverFiles(active, limits, exports or ExportOptions(), files)
    v1 = APIRouter(prefix=PREFIX, dependencies=[Depends(Authorization(ring, RateLimits(), records.audit))])
    v1.include_router(SongRoutes(active, limits, thumbnails, ring, records.usage).router())
    v1.include_router(CoverRoutes(active, records.store, own, files, limits, pictures, webhooks=webhooks).router())
    v1.include_router(DeliveryRoutes(own, Outbox(database, limits.webhooks)).router())
    v1.include_router(BatchRoutes(BatchStore(database, limits), records.audit, limits, webhooks=webhooks).router())
    v1.include_router(ExportRoutes(own, limits, pictures).router())
    v1.include_router(AccessRoutes(records.usage, records.audit, limits).router())
    for routes in (_health(active), v1, examples.router()):
        app.include_router(routes)
    describe_events(app)
    install_page(app)
    return _surround(app, limits, records.audit, answers_id)


def _lifespan(
    active: ActiveRelease, limits: ServeSettings, records: Records
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """What goes on beside the requests: the schema brought up to date and keys read before them; opt-outs and keys read
    again, and usage written down, meanwhile."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await records.database.upgrade()
        await records.ring.refresh()
        beside = [
            asyncio.create_task(active.optouts.keep_refreshing(limits.poll_interval_s)),
            asyncio.create_task(records.ring.keep_refreshing(limits.poll_interval_s)),
            asyncio.create_task(records.usage.keep_flushing()),
        ]
        yield
        for task in beside:
            task.cancel()
        records.store.close()
        try:
            await records.usage.flush()
        except GatefoldError as error:
            logger.error("the last searches are not written down: %s", error)
        await records.database.close()

    return lifespan


def _surround(app: FastAPI, limits: ServeSettings, audit: AuditLog, answers_id: bool) -> FastAPI:
    """The same, with what lies around every route; what is added last sees a request first."""
    app.add_middleware(SunsetMiddleware)
    app.add_middleware(AccountingMiddleware, audit=audit)
    app.add_middleware(GZipMiddleware, minimum_size=COMPRESSED_FROM_BYTES, compresslevel=COMPRESSION)
    app.add_middleware(BodyAdmissionMiddleware, limits=limits)
    if limits.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=limits.cors_origins,
            allow_methods=["GET", "HEAD", "POST", "DELETE"],
            allow_headers=CORS_SENT,
            expose_headers=CORS_READ,
        )
    app.add_middleware(AllowedHostsMiddleware, allowed=limits.hosts)
    app.add_middleware(RequestContextMiddleware, answers_id=answers_id)
    app.add_middleware(SecurityHeadersMiddleware)
    return app


class Api:
    """The ingress; it outlives every release. Any number of replicas: jobs and their files are in none of them.

    Args:
        workspace: URI; opt-outs are read and written there.
        runner: of jobs, which Serve runs beside the API as this names it; they meet in the database alone.
        examples: folder of songs to try, on the node that runs the replica.
        keys: SHA-256 of each API key that `gatefold serve` was given; the endpoint is open where there is none and none
            in the database.
        exports: credit and certificate of exported covers.
        webhooks: whether the runner signs and delivers them.
        database_url: of the database of jobs.
    """

    def __init__(
        self,
        workspace: str,
        runner: DeploymentHandle,
        *,
        limits: ServeSettings,
        examples: str | None,
        endpoint_url: str | None,
        keys: tuple[str, ...],
        database_url: str,
        exports: ExportOptions | None = None,
        webhooks: bool = False,
        traces: TraceArgs | None = None,
    ) -> None:
        replica.set_up(endpoint_url, traces)  # opt-outs and covers of the catalogue are read here
        self._active = ActiveRelease(OptOuts(Workspace(workspace)))
        self._thumbnails = Thumbnails(Workspace(workspace), limits.thumbnail_cache_bytes)
        self._runner = runner
        self._database = Database(database_url)
        self._files = JobFiles(Workspace(workspace), limits.image_cache_bytes)
        self._limits = limits
        self._keys = Keys(frozenset(keys))
        self._examples = Examples(None if examples is None else Path(examples))
        self._exports = exports
        self._webhooks = webhooks

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray Serve, once, when the replica has been constructed."""
        return create_app(
            self._active,
            limits=self._limits,
            database=self._database,
            files=self._files,
            keys=self._keys,
            examples=self._examples,
            thumbnails=self._thumbnails,
            exports=self._exports,
            webhooks=self._webhooks,
            answers_id=False,
        )

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """`user_config`: the application of the release that new requests get, and how searches cross to it. Waits
        until it is there."""
        self._active.switch_to(await services_of(config))

    async def in_use(self) -> list[str]:
        """Versions of the active release, which comes first, and of those that still have work to finish."""
        return self._active.in_use()


def _health(active: ActiveRelease) -> APIRouter:
    router = APIRouter(prefix="/v1/health", tags=["health"])

    @router.get("/live")
    async def live() -> Health:
        """That this process answers."""
        return Health(status="live")

    @router.get("/ready")
    async def ready() -> Health:
        """That requests can be answered."""
        with active.current() as serving:
            await serving.readiness.check()
        return Health(status="ready")

    return router
