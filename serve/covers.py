"""Routes round jobs for new covers: order, follow, cancel, fetch the pictures and all that replays them."""

import asyncio
import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.responses import StreamingResponse

from gatefold.config import ServeSettings
from gatefold.covers import encode_picture
from gatefold.errors import InputError, NotFound
from gatefold.retrieval import Filters
from serve import contracts, stages
from serve.contracts import (
    CoverManifest,
    CoverRequestView,
    ImageView,
    JobView,
    NeighbourView,
    PictureFormat,
    match_views,
)
from serve.jobs import Idempotency, Job, Order
from serve.problems import problem_of
from serve.rota import Rota
from serve.songs import body_of, check_size, part_view
from serve.stages import Stages
from serve.studio import Studio
from serve.uploads import RequestBody, read_body

SEED_DRAWN_BELOW = 2**32
"""seeds drawn at random stay below what a browser's numbers hold exactly, 2^53, so that the page can repeat them"""
HEARTBEAT_S = 15.0
"""seconds of silence after which an event stream says something, lest a proxy takes it for dead"""


class CoverRoutes:
    """Handlers of the routes; thin, around the studio."""

    def __init__(self, rota: Rota, studio: Studio, limits: ServeSettings) -> None:
        self._rota = rota
        self._studio = studio
        self._limits = limits

    def router(self) -> APIRouter:
        router = APIRouter(prefix="/covers", tags=["covers"])
        either = body_of(contracts.CoverFields, contracts.CoverQuery)
        router.add_api_route("", self.create, methods=["POST"], status_code=202, openapi_extra=either)
        router.add_api_route("/{job_id}", self.get)
        router.add_api_route("/{job_id}", self.cancel, methods=["DELETE"])
        router.add_api_route("/{job_id}/events", self.events, response_class=StreamingResponse)
        router.add_api_route("/{job_id}/images/{index}", self.image, response_class=Response)
        router.add_api_route("/{job_id}/manifest.json", self.manifest)
        return router

    async def create(
        self,
        request: Request,
        response: Response,
        prefer: Annotated[str | None, Header()] = None,
        idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
    ) -> JobView:
        """Orders new covers for an uploaded song or a song of the catalogue."""
        body = await read_body(request, song_max_bytes=self._limits.upload_max_bytes)
        model = contracts.CoverFields if body.song else contracts.CoverQuery
        fields = contracts.parse(model, body.fields, self._limits)
        idempotency = None
        if idempotency_key is not None:
            idempotency = Idempotency(f"{request.state.caller}:{idempotency_key}", _digest(body, fields))
        job = await self._studio.jobs.find(idempotency) if idempotency else None
        if job is None:
            await self._studio.jobs.admit()  # before the song is heard: a full queue should cost nothing
            with self._rota.on_duty() as serving:
                job = await self._studio.submit(serving, await _order(serving, body, fields), idempotency)
        wait_s = min(_wait_s(prefer), self._limits.wait_max_s)
        if wait_s:
            job = await self._studio.jobs.ended(job.job_id, wait_s)
            response.headers["Preference-Applied"] = f"wait={wait_s:g}"
        response.status_code = 200 if job.ended else 202
        response.headers["Location"] = _path(job)
        return _view(job)

    async def get(self, job_id: str) -> JobView:
        """A job as it is now."""
        return _view(await self._studio.jobs.get(job_id))

    async def cancel(self, job_id: str) -> JobView:
        """The job, cancelled if it had not ended."""
        return _view(await self._studio.cancel(job_id))

    async def events(self, job_id: str, last_event_id: Annotated[str | None, Header()] = None) -> StreamingResponse:
        """Every change of a job as a server-sent event, after the one named in Last-Event-ID; ends when the job has."""
        await self._studio.jobs.get(job_id)  # an unknown job is a 404, not a stream that breaks
        after = int(last_event_id) if last_event_id and last_event_id.isdecimal() else 0
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(job_id, after), media_type="text/event-stream", headers=headers)

    async def image(
        self,
        job_id: str,
        index: int,
        size: Annotated[int | None, Query(ge=16)] = None,
        format: Annotated[PictureFormat, Query()] = "png",
        download: Annotated[bool, Query()] = False,
    ) -> Response:
        """One of the new covers."""
        job = await self._studio.jobs.get(job_id)
        if size is not None:
            check_size(size, self._limits)
        if job.painted is None:
            raise NotFound(f"job '{job_id}' has no images: it is {job.state}")
        if not 0 <= index < job.order.n:
            raise NotFound(f"job '{job_id}' has no image {index}; it has 0 to {job.order.n - 1}")
        picture = await asyncio.to_thread(encode_picture, job.painted.pixels[index], size or job.order.size, format)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        if download:
            name = f"cover-{job.order.seeds[index]}.{'jpg' if format == 'jpeg' else 'png'}"
            headers["Content-Disposition"] = f'attachment; filename="{name}"'
        return Response(picture, media_type=f"image/{format}", headers=headers)

    async def manifest(self, job_id: str) -> CoverManifest:
        """All that replays a job exactly."""
        job = await self._studio.jobs.get(job_id)
        release = job.order.release
        return CoverManifest(
            job_id=job.job_id,
            created_at=job.created_at,
            release=release.version,
            encoder=part_view(release.encoder),
            index=part_view(release.index),
            generator=part_view(release.generator),
            song_embedding=job.order.song_embedding.tolist(),
            neighbours=[NeighbourView(song_id=m.track.song_id, score=m.score) for m in job.order.matches],
            seeds=job.order.seeds,
            settings=_settings(job.order),
        )

    async def _stream(self, job_id: str, after: int) -> AsyncIterator[str]:
        changes = self._studio.jobs.events(job_id, after)
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
                yield f"id: {number}\nevent: state\ndata: {_view(job).model_dump_json()}\n\n"
                upcoming = asyncio.ensure_future(anext(changes, None))
        finally:
            upcoming.cancel()


async def _order(serving: Stages, body: RequestBody, fields: contracts.CoverFields) -> Order:
    """What is to be painted: the song heard, its neighbours found, every default filled in."""
    defaults = await serving.painter.describe()
    own: frozenset[str] = frozenset()
    if body.song is not None:
        embedding = (await serving.encoder.hear(body.song.data, body.song.name, False)).embedding
    else:
        assert isinstance(fields, contracts.CoverQuery)
        embedding = stages.song_embedding(await serving.retriever.track(fields.song_id))
        own = frozenset({fields.song_id})  # a new cover that takes its style from the song's own would be a copy
    encoder = serving.release.encoder.fingerprint
    query = stages.Query(embedding, encoder, defaults.neighbours, Filters(exclude_song_ids=own))
    guidance, steps = fields.guidance_scale, fields.num_inference_steps
    return Order(
        release=serving.release,
        song_embedding=embedding,
        matches=tuple(await serving.retriever.search(query)),
        n=fields.n,
        seed=secrets.randbelow(SEED_DRAWN_BELOW) if fields.seed is None else fields.seed,
        guidance_scale=defaults.guidance_scale if guidance is None else guidance,
        num_inference_steps=defaults.num_inference_steps if steps is None else steps,
        size=fields.size,
    )


def _view(job: Job) -> JobView:
    return JobView(
        job_id=job.job_id,
        state=job.state,
        position=job.position,
        progress=job.progress,
        created_at=job.created_at,
        finished_at=job.finished_at,
        release=job.order.release.version,
        request=_settings(job.order),
        matches=match_views(job.order.matches),
        images=_images(job),
        problem=None if job.error is None else problem_of(job.error, _path(job)),
    )


def _images(job: Job) -> list[ImageView]:
    if job.painted is None:
        return []
    closest = [None if match is None else match_views([match])[0] for match in job.painted.closest]
    return [
        ImageView(index=i, seed=job.order.seed + i, url=f"{_path(job)}/images/{i}", closest=closest[i])
        for i in range(job.order.n)
    ]


def _settings(order: Order) -> CoverRequestView:
    return CoverRequestView(
        n=order.n,
        seed=order.seed,
        guidance_scale=order.guidance_scale,
        num_inference_steps=order.num_inference_steps,
        size=order.size,
    )


def _path(job: Job) -> str:
    return f"/v1/covers/{job.job_id}"


def _digest(body: RequestBody, fields: contracts.CoverFields) -> str:
    """What makes two requests the same: the song's bytes, and the fields as they were sent."""
    song = hashlib.sha256(body.song.data).hexdigest() if body.song else ""
    return hashlib.sha256(f"{song}\n{fields.model_dump_json()}".encode()).hexdigest()


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
