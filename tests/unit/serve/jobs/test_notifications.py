"""Where the database notifies of events nobody waits for the next poll: here it would come after the test is over."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
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


class Received:
    """How often a runner was to look for jobs; the first time since it is connected."""

    def __init__(self) -> None:
        self.count = 0

    def add(self) -> None:
        self.count += 1

    async def reaches(self, count: int) -> None:
        async def reached() -> bool:
            return self.count >= count

        await soon(reached)


@asynccontextmanager
async def receiving_queued(jobs: Jobs) -> AsyncIterator[Received]:
    received = Received()
    task = asyncio.create_task(jobs.queue.receive_queued(received.add))
    try:
        await received.reaches(1)
        yield received
    finally:
        task.cancel()


async def listening(jobs: Jobs) -> None:
    """Returns when somebody receives from the channel."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE datname = current_database() AND state = 'idle' AND query LIKE 'LISTEN%'"
    )

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
            claim = await there.begin()
            await there.queue.succeed(claim, RESULT)
            states = await asyncio.wait_for(following, QUICK_S)
            assert (states[0], states[-1]) == ("queued", "succeeded")

    run(main())


def test_a_queued_job_is_notified_at_once_and_no_other_event_is(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there, receiving_queued(here) as queued:
            await there.make()
            await queued.reaches(2)
            claim = await there.begin()
            await there.queue.succeed(claim, RESULT)
            await there.make()
            await queued.reaches(3)  # messages come in their order: those between were there before
            assert queued.count == 3

    run(main())


def test_options_of_a_url_that_only_the_engine_knows_are_no_fault(database_url: str) -> None:
    async def main() -> None:
        database = Database(f"{database_url}?prepared_statement_cache_size=0&timeout=9")
        connected = asyncio.Event()
        receiving = asyncio.create_task(database.receive("any", lambda _: connected.set()))
        await asyncio.wait_for(connected.wait(), QUICK_S)
        receiving.cancel()
        await database.close()

    run(main())


def test_a_fault_that_no_time_mends_is_logged_without_its_text(
    database_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(**_: object) -> None:
        raise TypeError("hunter2")

    monkeypatch.setattr(asyncpg, "connect", fail)

    async def main() -> None:
        database = Database(database_url)
        receiving = asyncio.create_task(database.receive("any", lambda _: None))

        async def logged() -> bool:
            return "no message can be received: TypeError" in caplog.text

        await soon(logged)
        assert not receiving.done()
        receiving.cancel()
        await database.close()

    run(main())
    assert "hunter2" not in caplog.text


def test_after_the_server_was_away_it_notifies_again(opened: Opened, server: PostgresServer) -> None:
    async def main() -> None:
        async with opened() as here, receiving_queued(here) as queued:
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await queued.reaches(2)  # it is connected again
            await here.make()
            await queued.reaches(3)

    run(main())


def test_sqlite_has_no_channels_and_is_polled(tmp_path: Path) -> None:
    async def main() -> None:
        database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
        await asyncio.wait_for(database.receive("any", lambda _: None), QUICK_S)
        await database.close()

    run(main())
