"""The client of the HTTP API for asyncio: the same as `gatefold.client.client`, whose docstrings hold here too."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import httpx

from gatefold.client import calls, files, models, webhooks
from gatefold.client.batches import AsyncBatches
from gatefold.client.calls import Call, CoverOptions, ExportOptions, PictureFormat, SearchOptions, SongLike
from gatefold.client.endpoint import Endpoint, is_replayed, no_answer
from gatefold.client.errors import ApiError, ClientError, NoAnswer
from gatefold.client.models import JobStatus
from gatefold.client.retries import RetryPolicy
from gatefold.client.sse import EventCursor
from gatefold.client.waiting import OnStatus, Wait, check_succeeded

T = TypeVar("T")


class AsyncClient:
    """Args:
    base_url: of the endpoint.
    api_key: else that of the environment variable GATEFOLD_API_KEY. It is sent to the origin of base_url alone.
    timeout_s: seconds of silence after which an answer is not waited for any longer.
    retries: of calls that may be repeated: GET, DELETE, and what has an Idempotency-Key, as `generate` and
        `batches.create`.
    transport: of httpx, for a proxy or a certificate authority of one's own.

    Every call raises an error of `gatefold.client.errors`.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        retries: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint(base_url, api_key, timeout_s, retries or RetryPolicy())
        self._http = httpx.AsyncClient(transport=transport, follow_redirects=False)
        self.releases, self.batches = AsyncReleases(self), AsyncBatches(self)

    def __repr__(self) -> str:
        return f"AsyncClient({self._endpoint.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections."""
        await self._http.aclose()

    async def search(
        self,
        song: SongLike | None = None,
        *,
        song_id: str | None = None,
        embedding: models.EmbeddingAnswer | Sequence[float] | None = None,
        encoder: str | None = None,
        name: str | None = None,
        **options: Unpack[SearchOptions],
    ) -> models.SearchAnswer:
        """The covers nearest to a song.

        Args:
            song: path of an audio file, or its bytes.
            song_id: or a song of the catalogue.
            embedding: or an embedding, as `embed` answers it or as numbers.
            encoder: fingerprint of the encoder that made these numbers.
            name: file name to send with the song.
        """
        return await self.send(calls.search(song, song_id, embedding, encoder, name, options))

    async def embed(self, song: SongLike, *, name: str | None = None) -> models.EmbeddingAnswer:
        """The embedding of a song."""
        return await self.send(calls.embed(song, name))

    async def generate(
        self,
        song: SongLike | None = None,
        *,
        song_id: str | None = None,
        idempotency_key: str | None = None,
        cancel_after_s: int | None = None,
        name: str | None = None,
        **options: Unpack[CoverOptions],
    ) -> "AsyncCoverJob":
        """A job for new covers.

        Args:
            song: path of an audio file, or its bytes.
            song_id: or a song of the catalogue.
            idempotency_key: the same key with the same request gives the same job; one is made where it is absent.
            cancel_after_s: seconds after which it is cancelled if it has not ended; never where absent.
            name: file name to send with the song.
        """
        call = calls.generate(song, song_id, idempotency_key, name, options, cancel_after_s)
        status, answer = await self._answered(call)
        return AsyncCoverJob(self, status, replayed=is_replayed(answer))

    async def job(self, job_id: str) -> "AsyncCoverJob":
        """A job that was created before."""
        return AsyncCoverJob(self, await self.send(calls.job(job_id)))

    async def jobs(
        self, state: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> models.JobPage:
        """Jobs of the caller, the last created first.

        Args:
            state: that they are in; any where absent.
            limit: how many at most.
            after: that of the page before.
        """
        return await self.send(calls.jobs(state, limit, after))

    async def track(self, song_id: str) -> models.TrackAnswer:
        """A song of the catalogue."""
        return await self.send(calls.track(song_id))

    async def track_cover(self, song_id: str, size: int | None = None) -> bytes:
        """Its cover: JPEG, `size` pixels a side."""
        return await self.send(calls.track_cover(song_id, size))

    async def withdraw(self, song_id: str) -> None:
        """Withdraws a song for its artist, for good."""
        await self.send(calls.withdraw(song_id))

    async def limits(self) -> models.LimitsAnswer:
        """What a request may ask for at most."""
        return await self.send(calls.limits())

    async def usage(
        self, first: date | None = None, last: date | None = None, *, everyone: bool = False
    ) -> models.UsageAnswer:
        """What the caller used, by day.

        Args:
            first: day in UTC; the first of the month of `last` where absent.
            last: day in UTC; today where absent.
            everyone: of every caller, which needs the scope admin.
        """
        return await self.send(calls.usage(first, last, everyone))

    async def audit(self, *, limit: int | None = None, before: int | None = None) -> models.AuditPage:
        """Calls that needed the scope admin, and changes of keys, the last first.

        Args:
            limit: entries at most; 100 where absent.
            before: number of the entry to go on from; the last ones where absent.
        """
        return await self.send(calls.audit(limit, before))

    async def health(self, probe: Literal["live", "ready"] = "ready") -> models.HealthAnswer:
        """That requests can be answered, or with "live" that the process answers."""
        return await self.send(calls.health(probe))

    async def send(self, call: Call[T], within_s: float | None = None) -> T:
        """Sends a call of `gatefold.client.calls`. Args: within_s: seconds for all attempts together."""
        return (await self._answered(call, within_s))[0]

    async def _answered(self, call: Call[T], within_s: float | None = None) -> tuple[T, httpx.Response]:
        ends = None if within_s is None else time.monotonic() + within_s
        failures = 0
        while True:
            left_s = None if ends is None else ends - time.monotonic()
            request = self._endpoint.request(call, left_s)
            try:
                with no_answer(request):
                    answer = await self._http.send(request)
                return self._endpoint.read(call, answer), answer
            except (ApiError, NoAnswer) as error:
                failures += 1
                pause_s = self._endpoint.pause(call.repeatable, failures, error)
                if pause_s is None or (ends is not None and time.monotonic() + pause_s >= ends):
                    raise
            await asyncio.sleep(pause_s)

    async def follow(self, job_id: str, after: int = 0) -> AsyncIterator[JobStatus]:
        """Every change of a job, each once, until it has ended; a lost connection is taken up where it broke off.

        Args: after: number of the last change that is known already.
        """
        cursor, failures, error = EventCursor(after), 0, ClientError()
        while True:
            before = cursor.last
            try:
                async with self.stream(calls.events_path(job_id), cursor.headers()) as answer:
                    cursor.ended = cursor.ended or answer.status_code == 204
                    async for data in answer.aiter_bytes():
                        for status in cursor.feed(data):
                            yield status
                error = NoAnswer(f"the events of job '{job_id}' broke off after number {cursor.last}")
            except (ApiError, NoAnswer) as lost:
                error = lost
            if cursor.ended:
                return
            failures = 1 if cursor.last > before else failures + 1
            pause_s = self._endpoint.pause(True, failures, error)
            if pause_s is None:
                raise error
            await asyncio.sleep(pause_s)

    @asynccontextmanager
    async def stream(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """An answer of 2xx that is read as it comes."""
        request = self._endpoint.stream_request(path, headers)
        with no_answer(request):
            answer = await self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    await answer.aread()
                    self._endpoint.check(answer)
                yield answer
            finally:
                await answer.aclose()


class AsyncReleases:
    """`client.releases`."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def current(self) -> models.ReleaseInfo:
        """What serves."""
        return await self._client.send(calls.current_release())


class AsyncCoverJob:
    """A job for new covers.

    Attributes:
        status: the job as it was last seen.
        replayed: whether an earlier request with the same Idempotency-Key had made it.
    """

    def __init__(self, client: AsyncClient, status: JobStatus, *, replayed: bool = False) -> None:
        self._client, self.status, self.replayed = client, status, replayed

    def __repr__(self) -> str:
        return f"AsyncCoverJob({self.job_id!r}, {self.status.state})"

    @property
    def job_id(self) -> str:
        """Id of the job, as in its path."""
        return self.status.job_id

    @property
    def images(self) -> list[models.CoverImage]:
        """The new covers, once it has succeeded."""
        return self.status.images

    async def refresh(self) -> JobStatus:
        """The job as it is now."""
        self.status = await self._client.send(calls.job(self.job_id))
        return self.status

    async def wait(self, timeout_s: float | None = None, on_progress: OnStatus | None = None) -> "AsyncCoverJob":
        """The job itself, once it has succeeded.

        Args:
            timeout_s: at most; None is without end. The job goes on all the same.
            on_progress: called with the status, at once and whenever it has changed.

        Raises: JobFailed; JobCancelled; JobUnfinished.
        """
        wait = Wait(timeout_s, on_progress)
        wait.saw(self.status)
        while not self.status.ended:
            await asyncio.sleep(wait.pause(self.status))
            try:
                self.status = await self._client.send(calls.job(self.job_id), wait.left_s)
            except NoAnswer as error:
                if wait.left_s == 0:
                    raise wait.unfinished(self.status) from error
                raise
            wait.saw(self.status)
        check_succeeded(self.status)
        return self

    async def events(self, after: int = 0) -> AsyncIterator[JobStatus]:
        """Every change of the job until it has ended, see `AsyncClient.follow`; `status` follows."""
        async for status in self._client.follow(self.job_id, after):
            self.status = status
            yield status

    async def cancel(self) -> JobStatus:
        """The job, cancelled if it had not ended."""
        self.status = await self._client.send(calls.cancel(self.job_id))
        return self.status

    async def image(
        self,
        index: int,
        *,
        size: int | None = None,
        picture_format: PictureFormat = "png",
        quality: int | None = None,
        profile: str | None = None,
    ) -> bytes:
        """An encoded picture.

        Args:
            size: pixels a side, as the job was asked for where absent.
            quality: 1 to 100, of JPEG and WebP.
            profile: of a store, which decides size and shape.
        """
        return await self._client.send(calls.image(self.job_id, index, size, picture_format, quality, profile))

    async def export(self, index: int, profile: str, **options: Unpack[ExportOptions]) -> bytes:
        """A picture as a store demands it, with title and artist on it, checked by preflight; or a zip with its
        sidecar."""
        return await self._client.send(calls.export(self.job_id, index, profile, options))

    async def sources(self, index: int) -> list[models.CoverSource]:
        """What a new cover is made from, the largest share first."""
        return (await self._client.send(calls.sources(self.job_id, index))).sources

    async def sources_map(self, index: int) -> bytes:
        """A PNG of where each source is in it."""
        return await self._client.send(calls.sources_map(self.job_id, index))

    async def manifest(self) -> models.JobManifest:
        """All that replays the job exactly."""
        return await self._client.send(calls.manifest(self.job_id))

    async def deliveries(self) -> list[webhooks.WebhookDelivery]:
        """What became of the events that its webhook wants, with each attempt."""
        return (await self._client.send(calls.deliveries(self.job_id))).deliveries

    async def redeliver(self, number: int) -> webhooks.WebhookDelivery:
        """Delivers one of them again, at once."""
        return await self._client.send(calls.redeliver(self.job_id, number))

    async def save(
        self, folder: str | Path, *, size: int | None = None, picture_format: PictureFormat = "png"
    ) -> list[Path]:
        """The pictures in a folder, `cover-SEED.png`, `.jpg` or `.webp`, and `manifest.json` beside; their paths.

        Raises: JobFailed; JobCancelled; JobUnfinished.
        """
        check_succeeded(self.status)
        paths = []
        for image in self.images:
            data = await self.image(image.index, size=size, picture_format=picture_format)
            name = files.image_name(image, picture_format)
            paths.append(await asyncio.to_thread(files.write, Path(folder), name, data))
        manifest = await self._client.send(calls.manifest_bytes(self.job_id))
        await asyncio.to_thread(files.write, Path(folder), files.MANIFEST, manifest)
        return paths
