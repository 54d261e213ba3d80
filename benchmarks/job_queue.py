"""What a queue of many jobs costs: milliseconds to accept one job more and to claim the next, on SQLite and PostgreSQL.

    python -m benchmarks.job_queue [JOBS]
"""

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import numpy as np
import sqlalchemy as sa

from gatefold.config import ServeSettings
from gatefold.generator.interface import GenerationRequest
from gatefold.records import Match, Track
from serve.interfaces import GenerationJob, ServedBundle, ServedRelease
from serve.jobs.database import Database
from serve.jobs.jobs import JobSpec
from serve.jobs.queue import JobQueue
from serve.jobs.store import JobStore, new_job_id
from serve.jobs.tables import jobs
from tests.postgres import PostgresServer

TIMES = 100
_BUNDLE = ServedBundle("v", "f")
_MATCHES = tuple(Match(rank=i, score=0.5, track=Track(song_id=f"song-{i}")) for i in range(1, 101))
_JOB = GenerationJob(np.ones(256, np.float32), "song-1", None, [7], GenerationRequest(size=512), None)
_SPEC = JobSpec(ServedRelease("r", _BUNDLE, _BUNDLE, _BUNDLE), _JOB, _MATCHES, n=4, seed=7, size=512)


async def measure(url: str, queued: int) -> dict[str, float]:
    """Milliseconds (median) of each step with so many jobs queued by one caller."""
    database = Database(url)
    await database.upgrade()
    limits = ServeSettings(jobs_max=10 * queued + 10 * TIMES)
    store, queue = JobStore(database, limits), JobQueue(database, limits)

    async def accept() -> None:
        await store.create(new_job_id(), replace(_SPEC), caller=f"other-{time.monotonic_ns()}")

    async def claim() -> None:
        (found,) = await queue.claim("runner", 1)
        await queue.begin(found)

    await store.create(new_job_id(), _SPEC, caller="many")
    async with database.write() as connection:
        row = (await connection.execute(sa.select(jobs))).one()._asdict()
        del row["number"]
        copies = [{**row, "job_id": new_job_id(), "turn": turn} for turn in range(1, queued)]
        for start in range(0, len(copies), 500):
            await connection.execute(sa.insert(jobs), copies[start : start + 500])
    found = {"accept": await _median_ms(accept), "claim and begin": await _median_ms(claim)}
    await database.close()
    return found


async def _median_ms(work: Callable[[], Awaitable[None]]) -> float:
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        await work()
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Prints a row for each database and length of the queue."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    server = PostgresServer()
    try:
        server.start()
        _show("| database | queued | accept, ms | claim and begin, ms |\n|---|---:|---:|---:|")
        for queued in (10, most):
            with tempfile.TemporaryDirectory() as folder:
                for url in (f"sqlite:///{folder}/jobs.sqlite", server.new_database()):
                    found = asyncio.run(measure(url, queued))
                    figures = " | ".join(f"{value:.1f}" for value in found.values())
                    _show(f"| {url.partition(':')[0]} | {queued:,} | {figures} |")
    finally:
        server.remove()


if __name__ == "__main__":
    main()
