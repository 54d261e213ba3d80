"""The table of generation jobs: specification, progress, result; with a history that can be followed and
replayed.

`JobTable` is the interface; `InProcessJobs` keeps it in the memory of one process, so one process may serve it, and
what it holds is lost with that process. Bounded on both sides: so many jobs under way, so many finished ones
remembered. It knows nothing of HTTP, of Ray, or of how a cover is generated.

Shape legend: n = new covers.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Protocol

from gatefold.errors import GatefoldError, IdempotencyConflict, Overloaded, UnknownJob
from gatefold.records import Match
from serve.interfaces import GenerationJob, GenerationResult, ServedRelease

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
RETRY_AFTER_S = 5
"""seconds after which a full table is likely to have room: about one job"""


@dataclass(frozen=True)
class JobSpec:
    """What is to be generated, every default filled in."""

    release: ServedRelease
    """the release that generates it"""
    job: GenerationJob
    matches: tuple[Match, ...]
    """the covers that were allowed as sources when it was created"""
    n: int
    seed: int
    """of the first cover; cover i has seed + i"""
    size: int
    """pixels a side of the pictures answered"""


@dataclass(frozen=True)
class GeneratedCovers:
    """The result of a job."""

    result: GenerationResult
    closest: tuple[Match | None, ...]
    """for each new cover, the cover of the catalogue most like it; None for a refused one"""


@dataclass(frozen=True)
class Job:
    """A job at one moment; every change makes another."""

    job_id: str
    spec: JobSpec
    created_at: datetime
    state: State = "queued"
    position: int | None = None
    """jobs ahead of it, while queued"""
    progress: float = 0.0
    """share of the work done"""
    finished_at: datetime | None = None
    generated: GeneratedCovers | None = None
    """once succeeded"""
    error: GatefoldError | None = None
    """once failed"""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Idempotency:
    """A caller's key, and a digest of the request that was sent with it."""

    key: str
    digest: str


class JobTable(Protocol):
    """Where jobs are kept. A change to a job that has ended is ignored: the end is final."""

    async def admit(self) -> None:
        """Nothing, if one more job would be taken. Raises: Overloaded."""

    async def find(self, idempotency: Idempotency) -> Job | None:
        """The job made with this key. Raises: IdempotencyConflict if the key was used for another request."""

    async def create(self, spec: JobSpec, idempotency: Idempotency | None) -> tuple[Job, bool]:
        """A queued job, and whether it is new: the same key and request give the same job.

        Raises: Overloaded; IdempotencyConflict.
        """

    async def get(self, job_id: str) -> Job:
        """Raises: UnknownJob."""

    async def advance(self, job_id: str, progress: float) -> Job:
        """The job, running, with this share of its work done. Raises: UnknownJob."""

    async def succeed(self, job_id: str, generated: GeneratedCovers) -> Job:
        """Raises: UnknownJob."""

    async def fail(self, job_id: str, error: GatefoldError) -> Job:
        """Raises: UnknownJob."""

    async def cancel(self, job_id: str) -> Job:
        """Raises: UnknownJob."""

    async def ended(self, job_id: str, within_s: float) -> Job:
        """The job when it has ended, or as it is after so many seconds. Raises: UnknownJob."""

    def events(self, job_id: str, after: int) -> AsyncIterator[tuple[int, Job]]:
        """Every change of a job, numbered from 1, those after number `after`; ends when the job does. Raises:
        UnknownJob."""

    async def last_event(self, job_id: str) -> int | None:
        """The number of a job's last change; None while there may be another. Raises: UnknownJob."""


class InProcessJobs:
    """A JobTable in the memory of one asyncio process.

    Args:
        max_unfinished: jobs queued or running.
        max_finished: finished jobs remembered; the oldest is forgotten first.
    """

    def __init__(self, *, max_unfinished: int, max_finished: int) -> None:
        self._max_unfinished = max_unfinished
        self._max_finished = max_finished
        self._histories: dict[str, list[Job]] = {}  # in order of creation
        self._finished: list[str] = []
        self._by_key: dict[str, tuple[str, str]] = {}  # idempotency key -> digest, job id
        self._changed = asyncio.Condition()

    async def admit(self) -> None:
        under_way = len(self._histories) - len(self._finished)
        if under_way >= self._max_unfinished:
            raise Overloaded(
                f"{under_way} jobs are under way, at most {self._max_unfinished} (serve.jobs_max); try again later",
                RETRY_AFTER_S,
            )

    async def find(self, idempotency: Idempotency) -> Job | None:
        known = self._by_key.get(idempotency.key)
        if known is None:
            return None
        digest, job_id = known
        if digest != idempotency.digest:
            raise IdempotencyConflict(
                f"this Idempotency-Key was used for another request (job '{job_id}'); use a new key for a new request"
            )
        return await self.get(job_id)

    async def create(self, spec: JobSpec, idempotency: Idempotency | None) -> tuple[Job, bool]:
        if idempotency is not None and (known := await self.find(idempotency)) is not None:
            return known, False
        await self.admit()
        queued = sum(history[-1].state == "queued" for history in self._histories.values())
        job = Job(secrets.token_hex(16), spec, datetime.now(UTC), position=queued)
        self._histories[job.job_id] = [job]
        if idempotency is not None:
            self._by_key[idempotency.key] = (idempotency.digest, job.job_id)
        return job, True

    async def get(self, job_id: str) -> Job:
        return self._history(job_id)[-1]

    async def advance(self, job_id: str, progress: float) -> Job:
        job = self._history(job_id)[-1]
        if job.ended or (job.state == "running" and job.progress == progress):
            return job
        return await self._record(replace(job, state="running", position=None, progress=progress))

    async def succeed(self, job_id: str, generated: GeneratedCovers) -> Job:
        return await self._end(job_id, "succeeded", generated=generated)

    async def fail(self, job_id: str, error: GatefoldError) -> Job:
        return await self._end(job_id, "failed", error=error)

    async def cancel(self, job_id: str) -> Job:
        return await self._end(job_id, "cancelled")

    async def ended(self, job_id: str, within_s: float) -> Job:
        with suppress(asyncio.TimeoutError):  # the job as it is then is the answer
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(lambda: self._history(job_id)[-1].ended), within_s)
        return await self.get(job_id)

    async def events(self, job_id: str, after: int) -> AsyncIterator[tuple[int, Job]]:
        history = self._history(job_id)  # held on to: it outlives its row in the table
        number = min(max(after, 0), len(history))
        while True:
            while number < len(history):
                number += 1
                yield number, history[number - 1]
            if history[-1].ended:
                return
            async with self._changed:
                await self._changed.wait_for(lambda: len(history) > number)  # noqa: B023 - awaited here, in this turn

    async def last_event(self, job_id: str) -> int | None:
        history = self._history(job_id)
        return len(history) if history[-1].ended else None

    def _history(self, job_id: str) -> list[Job]:
        if job_id not in self._histories:
            raise UnknownJob(
                f"job '{job_id[:64]}' is not known; the last {self._max_finished} finished jobs are kept "
                "(serve.max_finished_jobs), and none over a restart"
            )
        return self._histories[job_id]

    async def _end(
        self, job_id: str, state: State, *, generated: GeneratedCovers | None = None, error: GatefoldError | None = None
    ) -> Job:
        job = self._history(job_id)[-1]
        if job.ended:
            return job
        now = datetime.now(UTC)
        progress = 1.0 if state == "succeeded" else job.progress
        self._finished.append(job_id)
        outcome = replace(job, state=state, position=None, progress=progress, finished_at=now)
        ended = await self._record(replace(outcome, generated=generated, error=error))
        self._forget_oldest()
        return ended

    async def _record(self, job: Job) -> Job:
        """Appends a change, moves up the queued jobs behind it, and wakes the followers."""
        history = self._histories[job.job_id]
        left_queue = history[-1].state == "queued" and job.state != "queued"
        history.append(job)
        if left_queue:
            self._move_up()
        async with self._changed:
            self._changed.notify_all()
        return job

    def _move_up(self) -> None:
        position = 0
        for history in self._histories.values():
            waiting = history[-1]
            if waiting.state != "queued":
                continue
            if waiting.position != position:
                history.append(replace(waiting, position=position))
            position += 1

    def _forget_oldest(self) -> None:
        while len(self._finished) > self._max_finished:
            forgotten = self._finished.pop(0)
            del self._histories[forgotten]
            self._by_key = {key: known for key, known in self._by_key.items() if known[1] != forgotten}
