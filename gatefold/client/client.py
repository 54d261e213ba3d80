"""The client of the HTTP API for code that blocks. `gatefold.client.async_client` is the same for asyncio."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack

import httpx

from gatefold.client import calls, files, models, webhooks
from gatefold.client.batches import Batches
from gatefold.client.calls import Call, CoverOptions, ExportOptions, PictureFormat, SearchOptions, SongLike
from gatefold.client.endpoint import Endpoint, is_replayed, no_answer
from gatefold.client.errors import ApiError, ClientError, NoAnswer
from gatefold.client.models import JobStatus
from gatefold.client.retries import RetryPolicy
from gatefold.client.sse import EventCursor
from gatefold.client.waiting import OnStatus, Wait, check_succeeded

T = TypeVar("T")


class Client:
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
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._endpoint = Endpoint(base_url, api_key, timeout_s, retries or RetryPolicy())
        self._http = httpx.Client(transport=transport, follow_redirects=False)
        self.releases, self.batches = Releases(self), Batches(self)

    def __repr__(self) -> str:
        return f"Client({self._endpoint.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections."""
        self._http.close()

    def search(
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
        return self.send(calls.search(song, song_id, embedding, encoder, name, options))

    def embed(self, song: SongLike, *, name: str | None = None) -> models.EmbeddingAnswer:
        """The embedding of a song."""
        return self.send(calls.embed(song, name))

    def generate(
        self,
        song: SongLike | None = None,
        *,
        song_id: str | None = None,
        idempotency_key: str | None = None,
        cancel_after_s: int | None = None,
        name: str | None = None,
        **options: Unpack[CoverOptions],
    ) -> "CoverJob":
        """A job for new covers.

        Args:
            song: path of an audio file, or its bytes.
            song_id: or a song of the catalogue.
            idempotency_key: the same key with the same request gives the same job; one is made where it is absent.
            cancel_after_s: seconds after which it is cancelled if it has not ended; never where absent.
            name: file name to send with the song.
        """
        call = calls.generate(song, song_id, idempotency_key, name, options, cancel_after_s)
        status, answer = self._answered(call)
        return CoverJob(self, status, replayed=is_replayed(answer))

    def job(self, job_id: str) -> "CoverJob":
        """A job that was created before."""
        return CoverJob(self, self.send(calls.job(job_id)))

    def jobs(
        self, state: str | None = None, *, limit: int | None = None, after: str | None = None
    ) -> models.JobPage:
        """Jobs of the caller, the last created first.

        Args:
            state: that they are in; any where absent.
            limit: how many at most.
            after: that of the page before.
        """
        return self.send(calls.jobs(state, limit, after))

    def track(self, song_id: str) -> models.TrackAnswer:
        """A song of the catalogue."""
        return self.send(calls.track(song_id))

    def track_cover(self, song_id: str, size: int | None = None) -> bytes:
        """Its cover: JPEG, `size` pixels a side."""
        return self.send(calls.track_cover(song_id, size))

    def withdraw(self, song_id: str) -> None:
        """Withdraws a song for its artist, for good."""
        self.send(calls.withdraw(song_id))

    def limits(self) -> models.LimitsAnswer:
        """What a request may ask for at most."""
        return self.send(calls.limits())

    def usage(
        self, first: date | None = None, last: date | None = None, *, everyone: bool = False
    ) -> models.UsageAnswer:
        """What the caller used, by day.

        Args:
            first: day in UTC; the first of the month of `last` where absent.
            last: day in UTC; today where absent.
            everyone: of every caller, which needs the scope admin.
        """
        return self.send(calls.usage(first, last, everyone))

    def audit(self, *, limit: int | None = None, before: int | None = None) -> models.AuditPage:
        """Calls that needed the scope admin, and changes of keys, the last first.

        Args:
            limit: entries at most; 100 where absent.
            before: number of the entry to go on from; the last ones where absent.
        """
        return self.send(calls.audit(limit, before))

    def health(self, probe: Literal["live", "ready"] = "ready") -> models.HealthAnswer:
        """That requests can be answered, or with "live" that the process answers."""
        return self.send(calls.health(probe))

    def send(self, call: Call[T], within_s: float | None = None) -> T:
        """Sends a call of `gatefold.client.calls`. Args: within_s: seconds for all attempts together."""
        return self._answered(call, within_s)[0]

    def _answered(self, call: Call[T], within_s: float | None = None) -> tuple[T, httpx.Response]:
        ends = None if within_s is None else time.monotonic() + within_s
        failures = 0
        while True:
            left_s = None if ends is None else ends - time.monotonic()
            request = self._endpoint.request(call, left_s)
            try:
                with no_answer(request):
                    answer = self._http.send(request)
                return self._endpoint.read(call, answer), answer
            except (ApiError, NoAnswer) as error:
                failures += 1
                pause_s = self._endpoint.pause(call.repeatable, failures, error)
                if pause_s is None or (ends is not None and time.monotonic() + pause_s >= ends):
                    raise
            time.sleep(pause_s)

    def follow(self, job_id: str, after: int = 0) -> Iterator[JobStatus]:
        """Every change of a job, each once, until it has ended; a lost connection is taken up where it broke off.

        Args: after: number of the last change that is known already.
        """
        cursor, failures, error = EventCursor(after), 0, ClientError()
        while True:
            before = cursor.last
            try:
                with self.stream(calls.events_path(job_id), cursor.headers()) as answer:
                    cursor.ended = cursor.ended or answer.status_code == 204
                    for data in answer.iter_bytes():
                        yield from cursor.feed(data)
                error = NoAnswer(f"the events of job '{job_id}' broke off after number {cursor.last}")
            except (ApiError, NoAnswer) as lost:
                error = lost
            if cursor.ended:
                return
            failures = 1 if cursor.last > before else failures + 1
            pause_s = self._endpoint.pause(True, failures, error)
            if pause_s is None:
                raise error
            time.sleep(pause_s)

    @contextmanager
    def stream(self, path: str, headers: Mapping[str, str]) -> Iterator[httpx.Response]:
        """An answer of 2xx that is read as it comes."""
        request = self._endpoint.stream_request(path, headers)
        with no_answer(request):
            answer = self._http.send(request, stream=True)
            try:
                if not answer.is_success:
                    answer.read()
                    self._endpoint.check(answer)
                yield answer
            finally:
                answer.close()


class Releases:
    """`client.releases`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def current(self) -> models.ReleaseInfo:
        """What serves."""
        return self._client.send(calls.current_release())


class CoverJob:
    """A job for new covers.

    Attributes:
        status: the job as it was last seen.
        replayed: whether an earlier request with the same Idempotency-Key had made it.
    """

    def __init__(self, client: Client, status: JobStatus, *, replayed: bool = False) -> None:
        self._client, self.status, self.replayed = client, status, replayed

    def __repr__(self) -> str:
        return f"CoverJob({self.job_id!r}, {self.status.state})"

    @property
    def job_id(self) -> str:
        """Id of the job, as in its path."""
        return self.status.job_id

    @property
    def images(self) -> list[models.CoverImage]:
        """The new covers, once it has succeeded."""
        return self.status.images

    def refresh(self) -> JobStatus:
        """The job as it is now."""
        self.status = self._client.send(calls.job(self.job_id))
        return self.status

    def wait(self, timeout_s: float | None = None, on_progress: OnStatus | None = None) -> "CoverJob":
        """The job itself, once it has succeeded.

        Args:
            timeout_s: at most; None is without end. The job goes on all the same.
            on_progress: called with the status, at once and whenever it has changed.

        Raises: JobFailed; JobCancelled; JobUnfinished.
        """
        wait = Wait(timeout_s, on_progress)
        wait.saw(self.status)
        while not self.status.ended:
            time.sleep(wait.pause(self.status))
            try:
                self.status = self._client.send(calls.job(self.job_id), wait.left_s)
            except NoAnswer as error:
                if wait.left_s == 0:
                    raise wait.unfinished(self.status) from error
                raise
            wait.saw(self.status)
        check_succeeded(self.status)
        return self

    def events(self, after: int = 0) -> Iterator[JobStatus]:
        """Every change of the job until it has ended, see `Client.follow`; `status` follows."""
        for status in self._client.follow(self.job_id, after):
            self.status = status
            yield status

    def cancel(self) -> JobStatus:
        """The job, cancelled if it had not ended."""
        self.status = self._client.send(calls.cancel(self.job_id))
        return self.status

    def image(
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
        return self._client.send(calls.image(self.job_id, index, size, picture_format, quality, profile))

    def export(self, index: int, profile: str, **options: Unpack[ExportOptions]) -> bytes:
        """A picture as a store demands it, with title and artist on it, checked by preflight; or a zip with its
        sidecar."""
        return self._client.send(calls.export(self.job_id, index, profile, options))

    def sources(self, index: int) -> list[models.CoverSource]:
        """What a new cover is made from, the largest share first."""
        return self._client.send(calls.sources(self.job_id, index)).sources

    def sources_map(self, index: int) -> bytes:
        """A PNG of where each source is in it."""
        return self._client.send(calls.sources_map(self.job_id, index))

    def manifest(self) -> models.JobManifest:
        """All that replays the job exactly."""
        return self._client.send(calls.manifest(self.job_id))

    def deliveries(self) -> list[webhooks.WebhookDelivery]:
        """What became of the events that its webhook wants, with each attempt."""
        return self._client.send(calls.deliveries(self.job_id)).deliveries

    def redeliver(self, number: int) -> webhooks.WebhookDelivery:
        """Delivers one of them again, at once."""
        return self._client.send(calls.redeliver(self.job_id, number))

    def save(
        self, folder: str | Path, *, size: int | None = None, picture_format: PictureFormat = "png"
    ) -> list[Path]:
        """The pictures in a folder, `cover-SEED.png`, `.jpg` or `.webp`, and `manifest.json` beside; their paths.

        Raises: JobFailed; JobCancelled; JobUnfinished.
        """
        check_succeeded(self.status)
        paths = []
        for image in self.images:
            data = self.image(image.index, size=size, picture_format=picture_format)
            paths.append(files.write(Path(folder), files.image_name(image, picture_format), data))
        files.write(Path(folder), files.MANIFEST, self._client.send(calls.manifest_bytes(self.job_id)))
        return paths
