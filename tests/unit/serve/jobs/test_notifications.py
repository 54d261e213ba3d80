"""Where the database notifies of events nobody waits for the next poll: here it would come after the test is over."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from serve.jobs.database import Database
from serve.jobs.store import JobStore
from tests.postgres import PostgresServer
from tests.unit.serve.jobs.conftest import RESULT, Jobs, Opened, run, soon

NEVER_S = 3600.0
QUICK_S = 10.0  # on a busy machine; some milliseconds on a quiet one


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that is restarted."""
    made = PostgresServer()
    made.start()
    yield made
    made.remove()


@pytest.fixture
def database_url(server: PostgresServer) -> str:
    return server.new_database()


async def followed(store: JobStore, job_id: str) -> list[str]:
    return [job.state async for _, job in store.events(job_id, after=0)]


@asynccontextmanager
async def receiving_queued(jobs: Jobs) -> AsyncIterator[asyncio.Event]:
    queued = asyncio.Event()
    task = asyncio.create_task(jobs.queue.receive_queued(queued.set))
    try:
        yield queued
    finally:
        task.cancel()


async def listening(jobs: Jobs) -> None:
    """Returns when somebody receives from the channel."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"

    async def found() -> bool:
        async with jobs.database.read() as connection:
            return bool(await connection.scalar(sa.text(query)))

    await soon(found)


def test_who_follows_a_job_learns_of_its_end_in_another_process_at_once(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_poll_s=NEVER_S) as here, opened() as there:
            job = await here.make()
            following = asyncio.create_task(followed(here.store, job.job_id))
            await listening(there)
            began = time.monotonic()
            claim = await there.begin()
            await there.queue.succeed(claim, RESULT)
            states = await asyncio.wait_for(following, QUICK_S)
            assert (states[0], states[-1]) == ("queued", "succeeded")
            assert time.monotonic() - began < QUICK_S

    run(main())


def test_a_queued_job_is_notified_at_once_and_no_other_event_is(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there, receiving_queued(here) as queued:
            await listening(there)
            await there.make()
            await asyncio.wait_for(queued.wait(), QUICK_S)
            queued.clear()
            claim = await there.begin()
            await there.queue.succeed(claim, RESULT)
            await there.make()
            await asyncio.wait_for(queued.wait(), QUICK_S)

    run(main())


def test_after_the_server_was_away_it_notifies_again(opened: Opened, server: PostgresServer) -> None:
    async def main() -> None:
        async with opened() as here, receiving_queued(here) as queued:
            await listening(here)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await listening(here)
            await here.make()
            await asyncio.wait_for(queued.wait(), QUICK_S)

    run(main())


def test_sqlite_has_no_channels_and_is_polled(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
        await asyncio.wait_for(database.receive("any", lambda _: None), QUICK_S)
        await database.close()

    run(main())
