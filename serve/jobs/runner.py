"""Runs generation jobs: claims them from the queue while there is room, generates each by the release that is active
then, stores what came of it, and hands back what it has not finished when it is closed.

Each job has two asyncio tasks: one waits for the generator, the other renews the claim, writes the progress down and
learns whether the job was cancelled or went to another runner; then the first is cancelled, which stops the generator
within a step. Knows nothing of HTTP or of Ray.
"""

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace

import numpy as np

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, IndexNotReady, LeaseLost, Unavailable
from gatefold.generator.originality import NewCover
from gatefold.generator.records import cover_record
from gatefold.records import Match
from serve.active_release import ActiveRelease
from serve.api.cover_views import manifest_of
from serve.api.problems import internal_error
from serve.claiming import ClaimLoop, cancel, set_within, until_written
from serve.interfaces import GenerationResult, Query, ReleaseServices
from serve.jobs.files import JobFiles
from serve.jobs.jobs import Claim, JobResult, StoredCover
from serve.jobs.queue import JobQueue
from serve.jobs.specs import for_release
from serve.jobs.sweeper import Sweeper
from serve.observability.carried import carrying
from serve.observability.metrics import JOBS, OLDEST_QUEUED
from serve.observability.tracing import span

logger = logging.getLogger(__name__)

WAITING = 1
"""jobs claimed beyond those that the generator can take: the next begins at once, and its autoscaling sees demand"""
_SWEEP_EVERY_S = 60.0
_COUNT_EVERY_S = 5.0  # half of the time after which Ray exports a value
_RETRY_AFTER_POLLS = 10  # until a job is tried again that failed because something did not answer
_RENEWALS = 3  # of a lease, before it would end


@dataclass
class _Run:
    """A job in hand."""

    claim: Claim
    progress: float | None = None
    """None until generation has begun"""
    finished: asyncio.Event = field(default_factory=asyncio.Event)


class JobRunner:
    """Any number of them may work on the same queue, in any processes.

    Args:
        active: the release that jobs are run by.
        limits: `jobs_poll_s`, `job_lease_s`, `results_kept_s`.
        on_request: called, where work on a job begins, with the id of the request that the job came with.
    """

    def __init__(
        self,
        active: ActiveRelease,
        queue: JobQueue,
        files: JobFiles,
        limits: ServeSettings,
        on_request: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_request = on_request
        self.name = f"{socket.gethostname()[:40]}-{secrets.token_hex(4)}"
        self._active, self._queue, self._files, self._limits = active, queue, files, limits
        self._runs = ClaimLoop("jobs", _job_id, self._claim, self._observed_run, limits.jobs_poll_s)
        self._beside: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to claim jobs, and to delete expired ones; called once, from the event loop that it is to run in."""
        sweeper = Sweeper(self._queue, self._files, min(_SWEEP_EVERY_S, self._limits.results_kept_s))
        self._runs.start()
        beside = sweeper.run(), self._count_jobs(), self._queue.receive_queued(self._runs.wake)
        self._beside = [asyncio.create_task(work) for work in beside]

    async def close(self) -> None:
        """Claims no more, and hands back what it has in hand, which another runner then begins anew."""
        await cancel(self._beside)
        await self._runs.close()

    async def _claim(self) -> list[Claim]:
        await self._cancel_overdue()
        room = await self._room()
        return await self._queue.claim(self.name, room) if room > 0 else []

    async def _cancel_overdue(self) -> None:
        """Cancels jobs whose time is over; what runs them learns of it as of every cancellation."""
        for job_id in await self._queue.cancel_overdue():
            logger.info("job %s was cancelled: it had not ended in the time that its caller gave it", job_id)
            await self._delete_song(job_id)

    async def _room(self) -> int:
        try:
            with self._active.current() as services:
                return await services.generator.capacity() + WAITING - len(self._runs.in_hand)
        except IndexNotReady:
            return 0

    async def _count_jobs(self) -> None:
        """Shows how many jobs are queued and running. Never ends."""
        while True:
            try:
                counts, oldest_s = await self._queue.unfinished()
            except Unavailable as error:
                logger.warning("jobs cannot be counted now: %s", error)
            except Exception:
                logger.exception("jobs cannot be counted now")
            else:
                for (state, queue), count in counts.items():
                    JOBS.set(count, state=state, queue=queue)
                OLDEST_QUEUED.set(oldest_s)
            await asyncio.sleep(_COUNT_EVERY_S)

    async def _observed_run(self, claim: Claim) -> None:
        job = claim.job
        if job.spec.carried.request_id is not None:
            self._on_request(job.spec.carried.request_id)
        with carrying(replace(job.spec.carried, job_id=job.job_id)), span("run job"):
            await self._run(_Run(claim))

    async def _run(self, run: _Run) -> None:
        claim, job_id = run.claim, run.claim.job.job_id
        try:
            with self._active.current() as services:
                result = await self._while_held(run, self._generate(services, run))
            await self._persist(lambda: self._queue.succeed(claim, result))
            logger.info("job %s succeeded", job_id)
        except LeaseLost as error:
            logger.info("%s", error)
            return
        except asyncio.CancelledError:
            with suppress(Unavailable):  # then its lease ends by itself
                await self._queue.hand_back(claim)
            raise
        except Unavailable as error:
            if await self._try_later(claim, error):
                return
        except GatefoldError as error:
            logger.warning("job %s failed: %s: %s", job_id, error.code, error.message)
            await self._fail(claim, error)
        except Exception:
            logger.exception("job %s failed", job_id)
            await self._fail(claim, internal_error())
        await self._delete_song(job_id)

    async def _delete_song(self, job_id: str) -> None:
        try:
            await self._files.delete_song(job_id)
        except GatefoldError as error:
            logger.warning("job %s: its song stays until the job is deleted: %s", job_id, error)

    async def _while_held(self, run: _Run, work: "Awaitable[JobResult]") -> JobResult:
        """What the work gives. Raises: LeaseLost once the claim is lost, and the work is cancelled."""
        working = asyncio.ensure_future(work)
        keeping = asyncio.create_task(self._keep(run))
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                keeping.result()  # raises LeaseLost: it ends by itself for no other reason
            return await working
        finally:
            run.finished.set()
            await cancel([working])
            await asyncio.wait({keeping})
            if not keeping.cancelled():
                keeping.exception()  # of a claim that was lost in the last moment, which the next write finds out too

    async def _keep(self, run: _Run) -> None:
        """Renews the claim and writes the progress down until the run has finished. Raises: LeaseLost."""
        every_s = min(self._limits.jobs_poll_s, self._limits.job_lease_s / (2 * _RENEWALS))
        written, renewed_at = run.progress, time.monotonic()
        while not run.finished.is_set():
            if await set_within(run.finished, every_s):
                return
            progress, due = run.progress, time.monotonic() - renewed_at > self._limits.job_lease_s / _RENEWALS
            try:
                if progress is not None and progress != written:
                    await self._queue.advance(run.claim, progress)
                elif due:
                    await self._queue.renew(run.claim)
                else:
                    await self._queue.check(run.claim)
                    continue
            except Unavailable as error:  # the lease may end; until another has claimed the job, it can be renewed
                logger.warning("job %s: its claim cannot be renewed now: %s", run.claim.job.job_id, error)
                continue
            written, renewed_at = progress, time.monotonic()

    async def _generate(self, services: ReleaseServices, run: _Run) -> JobResult:
        claim, job = run.claim, run.claim.job
        spec = await for_release(services, job.spec, lambda: self._files.read_song(job.job_id))
        if spec is not job.spec:
            await self._persist(lambda: self._queue.respecify(claim, spec))
        result: GenerationResult | None = None
        async with aclosing(services.generator.generate(spec.job)) as generating:
            async for news in generating:
                if isinstance(news, GenerationResult):
                    result = news
                    continue
                if run.progress is None:
                    await self._persist(lambda: self._queue.begin(claim))
                run.progress = news
        if result is None:
            raise internal_error()
        closest = await _closest(services, result)
        covers = [StoredCover(cover_record(one), near) for one, near in zip(result.covers, closest, strict=True)]
        stored = JobResult(f"run-{claim.token}", result.matches, tuple(covers))
        manifest = manifest_of(replace(job, spec=spec, state="succeeded", result=stored)).model_dump_json().encode()
        with span("store covers"):
            await self._files.put_result(job.job_id, stored.folder, result.covers, manifest)
        return stored

    async def _fail(self, claim: Claim, error: GatefoldError) -> None:
        with suppress(LeaseLost):
            await self._persist(lambda: self._queue.fail(claim, error))

    async def _try_later(self, claim: Claim, error: GatefoldError) -> bool:
        """Queues the job again, or fails it where it has begun often enough; whether it is queued."""
        logger.warning("job %s was not finished: %s: %s", claim.job.job_id, error.code, error.message)
        left = 0

        async def count() -> None:
            nonlocal left
            left = await self._queue.attempts_left(claim)

        await self._persist(count)
        if left:
            after_s = _RETRY_AFTER_POLLS * self._limits.jobs_poll_s
            await self._persist(lambda: self._queue.hand_back(claim, after_s=after_s, counts=True))
        else:
            await self._fail(claim, error)
        return left > 0

    async def _persist(self, write: Callable[[], Awaitable[None]]) -> None:
        await until_written(write, self._limits.jobs_poll_s)


def _job_id(claim: Claim) -> str:
    return claim.job.job_id


async def _closest(services: ReleaseServices, result: GenerationResult) -> tuple[Match | None, ...]:
    """For each new cover, the cover of the catalogue nearest to it in the cover tower's space."""
    new = {place: cover for place, cover in enumerate(result.covers) if isinstance(cover, NewCover)}
    found: list[Match | None] = [None] * len(result.covers)
    if new:
        pixels = np.stack([cover.generated.pixels for cover in new.values()])
        embeddings = await services.encoder.embed_covers(pixels)
        encoder = services.release.encoder.fingerprint
        nearest = await asyncio.gather(*(services.retriever.search(Query(e, encoder, k=1)) for e in embeddings))
        for place, matches in zip(new, nearest, strict=True):
            found[place] = matches[0] if matches else None
    return tuple(found)
