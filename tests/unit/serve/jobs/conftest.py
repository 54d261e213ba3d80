"""What the tests of jobs share: a job, and stores and queues on an empty database of each kind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import sqlalchemy as sa

from gatefold.config import ServeSettings
from gatefold.generator.interface import GenerationRequest
from gatefold.records import Match, Track
from serve.interfaces import GenerationJob, ServedBundle, ServedRelease
from serve.jobs.database import Database
from serve.jobs.jobs import Claim, Idempotency, Job, JobResult, JobSpec, StoredCover
from serve.jobs.queue import JobQueue
from serve.jobs.store import JobStore, new_job_id
from serve.jobs.tables import jobs as table

T = TypeVar("T")
BUNDLE = ServedBundle("v", "f")
RELEASE = ServedRelease("r1", BUNDLE, BUNDLE, BUNDLE)
GENERATION = GenerationJob(
    np.array([0.1, 0.2, 1e-30, 3], np.float32), None, None, [7, 8], GenerationRequest(size=64), frozenset({"b", "a"})
)
NEAREST = Match(rank=1, score=0.123456789, track=Track(song_id="a", title="Ä"))
SPEC = JobSpec(RELEASE, GENERATION, (NEAREST,), n=2, seed=7, size=64, song_name="x.mp3")
RECORD: dict[str, Any] = {
    "seed": 7, "attempt": 1, "likeness": None, "palette_from": None, "enlarged": [], "sources": None,
}  # fmt: skip
COVER = StoredCover(RECORD, NEAREST)
REFUSED = {"seed": 8, "refused": "too_like_a_cover", "value": 0.9, "limit": 0.8, "detail": "too like 'a'"}
RESULT = JobResult("run-1", (NEAREST,), (COVER, StoredCover(REFUSED, None)))


@dataclass
class Jobs:
    """One process's view of a database of jobs."""

    store: JobStore
    queue: JobQueue
    database: Database

    async def make(self, caller: str = "me", key: str | None = None, digest: str = "d", priority: int = 0) -> Job:
        idempotency = None if key is None else Idempotency(key, digest)
        job, *_ = await self.store.create(
            new_job_id(), SPEC, caller=caller, idempotency=idempotency, priority=priority
        )
        return job

    async def claim(self) -> Claim:
        (claim,) = await self.queue.claim("runner", 1)
        return claim

    async def begin(self) -> Claim:
        claim = await self.claim()
        await self.queue.begin(claim)
        return claim


async def copied(jobs: Jobs, first: Job, count: int) -> None:
    """As many jobs of a caller, the first as any other is made, the rest as copies of it with the turns they would
    have: a thousand transactions take longer than a test should."""
    async with jobs.database.write() as connection:
        row = (await connection.execute(sa.select(table).where(table.c.job_id == first.job_id))).one()._asdict()
        del row["number"]
        copies = [{**row, "job_id": f"{row['caller']}-{i}", "turn": row["turn"] + i} for i in range(1, count)]
        await connection.execute(sa.insert(table), copies)


Opened = Callable[..., Any]


@pytest.fixture
def opened(database_url: str) -> Opened:
    """Opens the test's database, as another process would when called again; `limits` as configured."""

    @asynccontextmanager
    async def open_jobs(**limits: Any) -> AsyncIterator[Jobs]:
        database = Database(database_url)
        await database.upgrade()
        settings = ServeSettings(**{"jobs_poll_s": 0.01, **limits})
        store = JobStore(database, settings)
        try:
            yield Jobs(store, JobQueue(database, settings), database)
        finally:
            store.close()
            await database.close()

    return open_jobs


def run(main: Coroutine[Any, Any, T]) -> T:
    """In an event loop of its own, for a minute at most."""
    return asyncio.run(asyncio.wait_for(main, 60))


async def soon(true: Callable[[], Awaitable[bool]]) -> None:
    """Returns when this has become true; fails after ten seconds."""
    for _ in range(1000):
        if await true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not become true")


