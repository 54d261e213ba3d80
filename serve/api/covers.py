"""Routes of generation jobs: create, follow, cancel, fetch the pictures and all that replays them."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, cast

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from gatefold.config import ServeSettings
from gatefold.errors import InputError
from gatefold.export.profiles import SIDE_MAX, ProfileName
from gatefold.generator.attribution import draw_map
from serve.access.callers import Caller
from serve.access.own_jobs import OwnJobs
from serve.active_release import ActiveRelease
from serve.api import requests
from serve.api.contents import Content, add_content_route, content_response, is_known, not_modified, tag_of
from serve.api.contracts import CoverManifest, JobList, JobState, JobView, PictureFormat, SourcesView
from serve.api.cover_views import job_view, manifest_of, path_of, shares_of, sources_view
from serve.api.description import EVENTS, EVENTS_TYPE, JOB_CREATED
from serve.api.exports import IMAGE_TYPES, CoverFiles, ImageSize, Quality, check_size, wanted_image
from serve.api.limits import JOBS_LISTED_MAX, IdempotencyKey, marked
from serve.api.songs import body_of
from serve.jobs.files import JobFiles
from serve.jobs.jobs import Idempotency, Webhook
from serve.jobs.specs import CoversRequest, SongFile, make_spec
from serve.jobs.store import Accepted, JobStore, new_job_id
from serve.middleware.uploads import RequestBody, Upload, read_body
from serve.observability.carried import add, current

SEED_DRAWN_BELOW = 2**32
"""seeds drawn at random stay below what a browser's numbers hold exactly, 2^53, so that the page can repeat them"""
_NEVER_CHANGES = {"Cache-Control": "private, max-age=31536000, immutable"}
Preference = Annotated[
    str | None,
    Header(
        description="`wait=SECONDS` (RFC 7240): how long to wait for the job to end; more than `x-max-wait-s` is that",
        json_schema_extra=marked(x_max_wait_s="wait_max_s"),
    ),
]
CANCEL_AFTER_MAX_S = 604_800
CancelAfter = Annotated[
    str | None,
    Header(
        description=f"seconds, or a duration such as `90s`, `5m` or `1h30m`, 1 s to {CANCEL_AFTER_MAX_S} s: a job that "
        "has not ended by then is cancelled"
    ),
]
_DURATION = re.compile(r"(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s?)?")
HEARTBEAT_S = 15.0
"""seconds of silence after which an event stream sends a comment, so that no proxy closes it as idle"""


class CoverRoutes:
    """Handlers of the routes; thin, around the store of jobs.

    Args:
        webhooks: whether there is what signs and delivers them.
    """

    def __init__(
        self,
        active: ActiveRelease,
        store: JobStore,
        own: OwnJobs,
        files: JobFiles,
        limits: ServeSettings,
        cover_files: CoverFiles,
        *,
        webhooks: bool,
    ) -> None:
        self._active = active
        self._store, self._own, self._files = store, own, files
        self._limits = limits
        self._cover_files = cover_files
        self._webhooks = webhooks

    def router(self) -> APIRouter:
        """The routes under /v1/covers."""
        router = APIRouter(prefix="/covers", tags=["covers"])
        either = body_of(requests.CoverFields, requests.CoverQuery) | marked(x_max_jobs="jobs_max")
        kept = marked(x_results_kept_s="results_kept_s")
        router.add_api_route(
            "", self.create, methods=["POST"], status_code=202, openapi_extra=either, responses=JOB_CREATED
        )
        router.add_api_route("", self.list_own)
        router.add_api_route("/{job_id}", self.get, openapi_extra=kept)
        router.add_api_route("/{job_id}", self.cancel, methods=["DELETE"])
        router.add_api_route("/{job_id}/events", self.events, response_class=Response, responses=EVENTS)
        add_content_route(router, "/{job_id}/images/{index}", self.image, *IMAGE_TYPES)
        router.add_api_route("/{job_id}/images/{index}/sources", self.sources)
        add_content_route(router, "/{job_id}/images/{index}/sources.png", self.sources_map, "image/png")
        router.add_api_route("/{job_id}/manifest.json", self.manifest)
        return router

    async def create(
        self,
        request: Request,
        response: Response,
        prefer: Preference = None,
        idempotency_key: IdempotencyKey = None,
        cancel_after: CancelAfter = None,
    ) -> JobView:
        """Creates a job that generates new covers for an uploaded song or a song of the catalogue."""
        lists = frozenset({"source_song_ids", "webhook_events"})
        body = await read_body(request, self._limits, lists=lists)
        model = requests.CoverFields if body.song else requests.CoverQuery
        fields = requests.parse(model, body.fields, self._limits, strict=body.song is None)
        requests.check_webhook(fields, webhooks=self._webhooks)
        caller = cast(Caller, request.state.caller)
        idempotency, cancel_after_s = None, cancel_after_seconds(cancel_after)
        if idempotency_key is not None:
            idempotency = Idempotency(idempotency_key, _digest(body, fields))
        accepted: Accepted | None = None
        if body.song or idempotency is not None:  # before it is encoded: a full queue, or a repeat, should cost nothing
            accepted = await self._store.admit(caller.id, idempotency, fields.n, caller.allowed)
        if accepted is None:
            asked = asked_for(body.song, fields)
            accepted = await self._accept(asked, caller, idempotency, fields.webhook, cancel_after_s)
        job, new, ends_in_s = accepted
        if not new:
            response.headers["Idempotent-Replayed"] = "true"
        wait_s = min(_wait_s(prefer), self._limits.wait_max_s)
        if wait_s:
            job = await self._store.ended(job.job_id, wait_s)
            response.headers["Preference-Applied"] = f"wait={wait_s:g}"
            ends_in_s = 0 if job.ended else await self._store.ends_in_s(job)
        response.status_code = 200 if job.ended else 202
        if not job.ended:
            response.headers["Retry-After"] = str(ends_in_s)
        response.headers["Location"] = path_of(job)
        return job_view(job)

    async def list_own(
        self,
        request: Request,
        state: Annotated[JobState | None, Query(description="that the jobs are in; any without it")] = None,
        limit: Annotated[int, Query(ge=1, le=JOBS_LISTED_MAX, description="jobs in the answer, at most")] = 20,
        after: Annotated[str | None, Query(description="`after` of the answer before, to get what follows")] = None,
    ) -> JobList:
        """The caller's own jobs, the last created first."""
        found = await self._store.list_of(request.state.caller.id, state=state, limit=limit + 1, after=after)
        more = found[limit - 1].job_id if len(found) > limit else None
        return JobList(jobs=[job_view(job) for job in found[:limit]], after=more)

    async def get(self, request: Request, job_id: str) -> JobView:
        """A job as it is now."""
        return job_view(await self._own.get(request, job_id))

    async def cancel(self, request: Request, job_id: str) -> JobView:
        """The job, cancelled if it had not ended; its uploaded song is deleted."""
        job = await self._own.cancel(request, job_id)
        if job.state == "cancelled":
            await self._files.delete_song(job_id)
        return job_view(job)

    async def events(
        self, request: Request, job_id: str, last_event_id: Annotated[str | None, Header()] = None
    ) -> Response:
        """Every change of a job as a server-sent event, after the one named in Last-Event-ID; ends when the job has.

        204 where the last one has been seen: then no browser asks again.
        """
        job = await self._own.get(request, job_id)  # an unknown job is a 404, not a stream that breaks
        after = int(last_event_id) if last_event_id and re.fullmatch(r"[0-9]{1,18}", last_event_id) else 0
        if job.ended and after >= job.last_event:
            return Response(status_code=204)
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(job_id, after), media_type=EVENTS_TYPE, headers=headers)

    async def image(
        self,
        request: Request,
        job_id: str,
        index: int,
        size: ImageSize | None = None,
        format: Annotated[PictureFormat | None, Query()] = None,
        quality: Quality | None = None,
        profile: Annotated[ProfileName | None, Query()] = None,
        download: Annotated[bool, Query()] = False,
    ) -> Response:
        """One of the new covers: PNG, at the size it was generated at, unless something else is asked for. A profile
        decides size and shape, and its own format where it does not take the one asked for."""
        check_size(size or 0, self._limits)
        job = await self._own.get(request, job_id)
        wanted = wanted_image(size or min(job.spec.size, SIDE_MAX), format, quality, profile, keep=download)
        return await self._cover_files.image(request, job, index, wanted, "attachment" if download else "inline")

    async def sources(self, request: Request, job_id: str, index: int) -> SourcesView:
        """Which covers a new cover is made from, the largest share first."""
        job = await self._own.get(request, job_id)
        return sources_view(job, index)

    async def sources_map(self, request: Request, job_id: str, index: int) -> Response:
        """Where each source is in a new cover: a PNG in the colours that `sources` names."""
        job = await self._own.get(request, job_id)
        shares_of(job, index)  # says why there are none
        tag = tag_of(job_id, index, "sources")
        if is_known(request, tag):
            return not_modified(tag, _NEVER_CHANGES)
        attribution = (await self._files.generated(job, index)).attribution
        assert attribution is not None
        picture = await asyncio.to_thread(draw_map, attribution)
        return content_response(request, Content(picture, "image/png"), tag, _NEVER_CHANGES)

    async def manifest(self, request: Request, job_id: str) -> CoverManifest:
        """All that replays a job exactly."""
        return manifest_of(await self._own.get(request, job_id))

    async def _accept(
        self,
        asked: CoversRequest,
        caller: Caller,
        idempotency: Idempotency | None,
        webhook: Webhook | None,
        cancel_after_s: float | None,
    ) -> Accepted:
        """The job of this request; the uploaded song is stored before anybody can claim it."""
        job_id, new = new_job_id(), False
        add(job_id=job_id)
        storing: asyncio.Future[None] | None = None
        if isinstance(asked.song, SongFile):  # while it is encoded, which takes longer
            storing = asyncio.ensure_future(self._files.put_song(job_id, asked.song.data))
        try:
            with self._active.current() as serving:
                spec = replace(await make_spec(serving, asked), carried=current())
            if storing is not None:
                await storing
            accepted = await self._store.create(
                job_id,
                spec,
                caller=caller.id,
                allowed=caller.allowed,
                idempotency=idempotency,
                webhook=webhook,
                cancel_after_s=cancel_after_s,
            )
            new = accepted.new
        finally:
            if storing is not None and not new:
                await asyncio.wait({storing})
                await self._files.delete_song(job_id)
        return accepted

    async def _stream(self, job_id: str, after: int) -> AsyncIterator[str]:
        changes = self._store.events(job_id, after)
        upcoming = asyncio.ensure_future(anext(changes, None))
        try:
            while True:
                done, _ = await asyncio.wait({upcoming}, timeout=HEARTBEAT_S)
                if not done:
                    yield ": still here\n\n"
                    continue
                change = upcoming.result()
                if change is None:
                    return
                number, job = change
                yield f"id: {number}\nevent: state\ndata: {job_view(job).model_dump_json()}\n\n"
                upcoming = asyncio.ensure_future(anext(changes, None))
        finally:
            upcoming.cancel()


def asked_for(upload: Upload | None, fields: requests.CoverFields) -> CoversRequest:
    """The request with its seed: one drawn at random where none is named.

    Args:
        upload: the song; that of the fields when None.
    """
    song: SongFile | str
    if upload is not None:
        song = SongFile(upload.data, upload.name)
    else:
        assert isinstance(fields, requests.CoverQuery)
        song = fields.song_id
    picked = None if fields.source_song_ids is None else frozenset(fields.source_song_ids)
    seed = secrets.randbelow(SEED_DRAWN_BELOW) if fields.seed is None else fields.seed
    return CoversRequest(song, fields.generator_request, fields.n, seed, fields.size, picked)


def _digest(body: RequestBody, fields: requests.CoverFields) -> str:
    """What makes two requests the same: the song's bytes, and the fields as they were sent."""
    song = hashlib.sha256(body.song.data).hexdigest() if body.song else ""
    absent = {name for name in ("webhook_url", "webhook_events") if getattr(fields, name) is None}
    sent = fields.model_dump_json(exclude=absent)  # without a webhook, as before there were any
    return hashlib.sha256(f"{song}\n{sent}".encode()).hexdigest()


def cancel_after_seconds(header: str | None) -> float | None:
    """Seconds of a Cancel-After; None without one. Raises: InputError."""
    if header is None:
        return None
    found = _DURATION.fullmatch(header.strip())
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    total = 3600 * hours + 60 * minutes + seconds
    if not 1 <= total <= CANCEL_AFTER_MAX_S:
        raise InputError(
            f"Cancel-After = '{header[:80]}' must be seconds, 1 to {CANCEL_AFTER_MAX_S}, or a duration as in '1h30m'"
        )
    return float(total)


def _wait_s(prefer: str | None) -> float:
    """Seconds of the `wait` preference (RFC 7240), 0 without one."""
    if prefer is None:
        return 0.0
    wait = re.search(r"(?:^|[,;\s])wait\s*=\s*\"?([^\s,;\"]*)", prefer, re.IGNORECASE)
    if wait is None:
        return 0.0
    if not re.fullmatch(r"\d{1,6}", wait[1]):
        raise InputError(f"Prefer: wait = '{wait[1][:80]}' must be a number of whole seconds, as in 'wait=30'")
    return float(wait[1])
