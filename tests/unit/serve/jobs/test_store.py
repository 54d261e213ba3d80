import asyncio
import sqlite3
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from gatefold.errors import DatabaseUnavailable, GatefoldError, IdempotencyConflict, Overloaded, UnknownJob
from serve.jobs.database import Database
from serve.jobs.jobs import Idempotency, Job
from serve.jobs.store import IDEMPOTENCY_KEPT_S, new_job_id
from serve.jobs.tables import jobs as table
from tests.unit.serve.jobs.conftest import RESULT, SPEC, Jobs, Opened, run


def test_a_job_is_read_as_it_was_written_to_the_last_bit(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs, opened() as elsewhere:
            made = await jobs.make()
            found = await elsewhere.store.get(made.job_id)
        assert (found.state, found.position, found.progress, found.caller) == ("queued", 0, 0.0, "me")
        assert (found.started_at, found.finished_at, found.expires_at, found.result) == (None, None, None, None)
        assert np.array_equal(found.spec.job.song_embedding, SPEC.job.song_embedding)
        assert found.spec.job.song_embedding.dtype == np.float32
        assert (found.spec.job.seeds, found.spec.job.request) == ([7, 8], SPEC.job.request)
        assert found.spec.job.source_song_ids == {"a", "b"}
        assert (found.spec.matches, found.spec.release, found.spec.song_name) == (SPEC.matches, SPEC.release, "x.mp3")

    run(main())


def test_an_unknown_job_is_refused_by_every_method(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            calls = (jobs.store.get, jobs.store.cancel)
            for call in calls:
                with pytest.raises(UnknownJob, match=r"'nothing' is not known; .*serve.results_kept_s"):
                    await call("nothing")
            with pytest.raises(UnknownJob):
                await jobs.store.ended("nothing", 1)
            with pytest.raises(UnknownJob):
                await anext(jobs.store.events("nothing", 0))
            with pytest.raises(UnknownJob):
                await jobs.store.list_of("me", state=None, limit=1, after="nothing")

    run(main())


def test_positions_count_the_queued_jobs_that_go_first(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            low, first, second = await jobs.make(priority=-1), await jobs.make(), await jobs.make()

            async def positions() -> list[int | None]:
                return [(await jobs.store.get(job.job_id)).position for job in (low, first, second)]

            assert await positions() == [2, 0, 1]
            await jobs.begin()
            assert await positions() == [1, None, 0]
            await jobs.store.cancel(second.job_id)
            assert await positions() == [0, None, None]

    run(main())


def test_jobs_beyond_the_limit_are_refused_with_a_time_to_come_back(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2) as jobs:
            first, _ = await jobs.make(), await jobs.make()
            for refused in (jobs.make(), jobs.store.admit("me", None), jobs.store.admit("me", Idempotency("k", "d"))):
                with pytest.raises(Overloaded, match=r"2 jobs are under way, at most 2 \(serve.jobs_max\)") as error:
                    await refused
                assert error.value.retry_after_s > 0
            await jobs.store.cancel(first.job_id)
            await jobs.make()

    run(main())


def test_a_limit_holds_for_callers_at_once_in_several_processes(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=5) as here, opened(jobs_max=5) as there:
            made = await asyncio.gather(*(one.make() for one in (here, there) * 10), return_exceptions=True)
        assert sum(isinstance(one, Job) for one in made) == 5
        assert {type(one) for one in made} == {Job, Overloaded}

    run(main())


def test_a_key_gives_the_same_job_over_a_restart_and_a_conflict_for_another_request(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            first = await jobs.make(key="k")
        async with opened(jobs_max=1) as jobs:  # a repeated request is answered by a full queue too
            again, new, _ = await jobs.store.create(new_job_id(), SPEC, caller="me", idempotency=Idempotency("k", "d"))
            assert (again.job_id, new) == (first.job_id, False)
            found = await jobs.store.admit("me", Idempotency("k", "d"))
            assert found is not None
            assert (found.job.job_id, found.new) == (first.job_id, False)
            assert await jobs.store.admit("you", Idempotency("k", "d")) is None
            with pytest.raises(Overloaded):
                await jobs.store.admit("me", Idempotency("l", "d"))
            for refused in (jobs.make(key="k", digest="e"), jobs.store.admit("me", Idempotency("k", "e"))):
                with pytest.raises(IdempotencyConflict, match="use a new key"):
                    await refused

    run(main())


def test_a_key_makes_one_job_however_many_send_it_at_once(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            made = await asyncio.gather(*(one.make(key="k") for one in (here, there) * 8))
        assert len({job.job_id for job in made}) == 1

    run(main())


def test_a_key_is_free_again_after_a_day_and_its_job_is_kept_so_long(opened: Opened) -> None:
    async def main() -> None:
        async with opened(results_kept_s=1) as jobs:
            first = await jobs.make(key="k")
            ended = await jobs.store.cancel(first.job_id)
            assert ended.expires_at is not None
            assert (ended.expires_at - ended.created_at).total_seconds() == pytest.approx(IDEMPOTENCY_KEPT_S)
            async with jobs.database.write() as connection:
                await connection.execute(sa.update(table).values(created_at=table.c.created_at - IDEMPOTENCY_KEPT_S))
            assert await jobs.store.admit("me", Idempotency("k", "other")) is None
            assert (await jobs.make(key="k", digest="other")).job_id != first.job_id
            assert (await jobs.store.get(first.job_id)).state == "cancelled"

    run(main())


def test_a_caller_lists_his_own_jobs_page_by_page_the_last_first(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            mine = [await jobs.make() for _ in range(5)]
            await jobs.make("another")
            await jobs.store.cancel(mine[3].job_id)
            newest = [job.job_id for job in reversed(mine)]

            async def listed(**asked: Any) -> list[str]:
                asked = {"state": None, "limit": 10, "after": None} | asked
                return [job.job_id for job in await jobs.store.list_of("me", **asked)]

            assert await listed() == newest
            assert await listed(limit=2) == newest[:2]
            assert await listed(limit=2, after=newest[1]) == newest[2:4]
            assert await listed(state="cancelled") == [mine[3].job_id]
            assert await listed(state="queued", after=newest[0]) == newest[2:]

    run(main())


def test_a_succeeded_job_has_its_result_and_its_times(opened: Opened) -> None:
    async def main() -> None:
        async with opened(results_kept_s=100) as jobs:
            await jobs.make()
            claim = await jobs.begin()
            await jobs.queue.succeed(claim, RESULT)
            job = await jobs.store.get(claim.job.job_id)
        assert (job.state, job.progress, job.result, job.error) == ("succeeded", 1.0, RESULT, None)
        assert job.started_at is not None
        assert job.finished_at is not None
        assert job.expires_at is not None
        assert (job.expires_at - job.finished_at).total_seconds() == pytest.approx(100)
        assert job.queued_s is not None
        assert job.generation_s is not None
        assert job.created_at <= job.started_at <= job.finished_at

    run(main())


def test_the_end_of_a_job_is_final(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            await jobs.make()
            claim = await jobs.begin()
            await jobs.queue.succeed(claim, RESULT)
            assert (await jobs.store.cancel(claim.job.job_id)).state == "succeeded"

    run(main())


async def followed(jobs: Jobs, job_id: str, after: int = 0) -> list[tuple[int, str, float]]:
    return [(number, job.state, job.progress) async for number, job in jobs.store.events(job_id, after)]


def test_another_process_follows_a_job_from_any_event_on_and_reads_the_same(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs, opened() as elsewhere:
            made = await jobs.make()
            following = asyncio.create_task(followed(elsewhere, made.job_id))
            claim = await jobs.begin()
            for progress in (0.25, 0.5):
                await jobs.queue.advance(claim, progress)
                await asyncio.sleep(0.03)
            await jobs.queue.fail(claim, GatefoldError("broken"))
            every = await following
            assert every == [
                (1, "queued", 0.0), (2, "running", 0.0), (3, "running", 0.25), (4, "running", 0.5), (5, "failed", 0.5)
            ]  # fmt: skip
            for after in (1, 3, 4, 5, 99):
                assert await followed(jobs, made.job_id, after) == every[after:]
            assert (await elsewhere.store.get(made.job_id)).last_event == 5

    run(main())


def test_an_event_shows_the_job_as_it_was(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            claim = await jobs.begin()
            await jobs.queue.succeed(claim, RESULT)
            queued, running, done = [job async for _, job in jobs.store.events(made.job_id, 0)]
        assert (queued.position, queued.started_at, queued.finished_at, queued.result) == (0, None, None, None)
        assert (running.position, running.finished_at, running.expires_at, running.result) == (None, None, None, None)
        assert running.started_at == done.started_at
        assert done.result == RESULT

    run(main())


def test_who_follows_a_queued_job_sees_it_move_up_under_the_same_number(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            first, second = await jobs.make(), await jobs.make()
            changes = jobs.store.events(second.job_id, 0)
            number, job = await anext(changes)
            assert (number, job.position) == (1, 1)
            await jobs.store.cancel(first.job_id)
            number, job = await anext(changes)
            assert (number, job.position) == (1, 0)
            await jobs.store.cancel(second.job_id)
            assert [(number, job.state) async for number, job in changes] == [(2, "cancelled")]

    run(main())


def test_following_ends_where_the_job_is_deleted(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            changes = jobs.store.events(made.job_id, 0)
            await anext(changes)
            async with jobs.database.write() as connection:
                await connection.execute(sa.delete(table))
            assert [number async for number, _ in changes] == []

    run(main())


def test_waiting_for_the_end_returns_at_the_end_or_when_time_is_up(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs, opened() as elsewhere:
            made = await jobs.make()
            assert (await jobs.store.ended(made.job_id, 0.03)).state == "queued"
            waiting = asyncio.create_task(jobs.store.ended(made.job_id, 30))
            await asyncio.sleep(0.03)
            await elsewhere.store.cancel(made.job_id)
            assert (await asyncio.wait_for(waiting, 10)).state == "cancelled"

    run(main())


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_database_that_another_locks_is_unavailable_after_a_while_and_then_goes_on(
    opened: Opened, database_url: str
) -> None:
    path = database_url.removeprefix("sqlite:///")

    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            impatient = Database(database_url, busy_timeout_s=0.05)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(DatabaseUnavailable, match="another process holds its lock; try again later"):
                async with impatient.write():
                    pass
            assert (await jobs.store.get(made.job_id)).state == "queued"  # who reads need not wait
            other.execute("ROLLBACK")
            other.close()
            async with impatient.write():
                pass
            await impatient.close()

    run(main())
