"""Jobs that are to end in time, and estimates of when they will."""

import asyncio

import pytest
import sqlalchemy as sa

from gatefold.errors import LeaseLost, Overloaded
from serve.jobs.jobs import Job
from serve.jobs.store import RETRY_AFTER_MAX_S, RETRY_AFTER_S, new_job_id
from serve.jobs.tables import jobs as rows
from tests.unit.serve.jobs.conftest import RESULT, SPEC, Jobs, Opened, run


async def limited(jobs: Jobs, cancel_after_s: float) -> Job:
    job, *_ = await jobs.store.create(new_job_id(), SPEC, caller="me", cancel_after_s=cancel_after_s)
    return job


async def ended_after(jobs: Jobs, seconds: float) -> None:
    """A job that took so long to generate."""
    claim = await jobs.begin()
    await jobs.queue.succeed(claim, RESULT)
    async with jobs.database.write() as connection:
        began = rows.c.finished_at - seconds
        await connection.execute(
            sa.update(rows).where(rows.c.job_id == claim.job.job_id).values(started_at=began)
        )


def test_a_job_whose_time_is_over_is_cancelled_and_no_other(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            waits, late, later = await jobs.make(), await limited(jobs, 0.05), await limited(jobs, 60)
            assert late.cancel_at is not None
            assert (await jobs.store.get(late.job_id)).cancel_at == late.cancel_at
            await asyncio.sleep(0.1)
            assert await jobs.queue.cancel_overdue() == [late.job_id]
            assert await jobs.queue.cancel_overdue() == []
            found = [await jobs.store.get(job.job_id) for job in (waits, late, later)]
            assert [job.state for job in found] == ["queued", "cancelled", "queued"]
            assert found[1].expires_at is not None

    run(main())


def test_a_job_whose_time_is_over_never_begins(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            await limited(jobs, 0.05)
            await asyncio.sleep(0.1)
            assert await jobs.queue.claim("runner", 1) == []

    run(main())


def test_a_job_that_runs_when_its_time_is_over_is_taken_from_its_runner(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            job = await limited(here, 1.0)
            claim = await here.begin()
            await asyncio.sleep(1.1)
            assert await there.queue.cancel_overdue() == [job.job_id]
            with pytest.raises(LeaseLost):
                await here.queue.succeed(claim, RESULT)
            assert (await there.store.get(job.job_id)).state == "cancelled"

    run(main())


def test_a_job_that_ended_in_time_stays_as_it_ended(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            job = await limited(jobs, 1.0)
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            await asyncio.sleep(1.1)
            assert await jobs.queue.cancel_overdue() == []
            assert (await jobs.store.get(job.job_id)).state == "succeeded"

    run(main())


def test_the_time_until_a_job_has_ended_is_estimated_by_its_place_and_the_last_jobs(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            first = await jobs.make()
            assert await jobs.store.ends_in_s(first) == RETRY_AFTER_S
            await ended_after(jobs, 10)
            await jobs.make()
            await ended_after(jobs, 20)
            waiting = [await jobs.make() for _ in range(5)]
            assert [await jobs.store.ends_in_s(job) for job in waiting[:3]] == [15, 30, 45]
            assert (await jobs.store.create(new_job_id(), SPEC, caller="me")).ends_in_s == 6 * 15
            await jobs.begin()
            claim = await jobs.begin()  # two run at once
            third = await jobs.store.get(waiting[4].job_id)
            assert (third.position, await jobs.store.ends_in_s(third)) == (2, 30)
            await jobs.queue.advance(claim, 0.8)
            assert await jobs.store.ends_in_s(await jobs.store.get(claim.job.job_id)) == 3

    run(main())


def test_a_full_queue_says_when_there_will_be_room(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=1) as jobs:
            for seconds, said in ((40, 40), (100_000, RETRY_AFTER_MAX_S)):
                await jobs.make()
                await ended_after(jobs, seconds)
                await jobs.make()
                with pytest.raises(Overloaded) as full:
                    await jobs.make()
                assert full.value.retry_after_s == said
                await jobs.queue.succeed(await jobs.begin(), RESULT)
                async with jobs.database.write() as connection:
                    await connection.execute(sa.delete(rows))

    run(main())
