"""What one key may have of the queue and of a month, held also where its requests come at the same time."""

import asyncio
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from gatefold.errors import GatefoldError, InputError, QuotaExceeded, TooManyJobs
from serve.access.callers import Allowance
from serve.access.usage import UsageCounter
from serve.jobs.jobs import Job
from serve.jobs.store import new_job_id
from tests.unit.serve.jobs.conftest import RESULT, SPEC, Jobs, Opened, run


async def make(jobs: Jobs, caller: str = "me", n: int = 2, **allowed: Any) -> Job:
    spec = replace(SPEC, n=n)
    job, *_ = await jobs.store.create(new_job_id(), spec, caller=caller, allowed=Allowance(**allowed))
    return job


async def usage_of(jobs: Jobs, caller: str = "me") -> tuple[int, float]:
    """Covers and seconds of generation."""
    days = await UsageCounter(jobs.database).read(caller, date.min, date.max)
    return sum(day.covers for day in days), sum(day.generation_s for day in days)


def test_jobs_beyond_those_that_a_key_may_have_at_once_are_refused_until_one_ends(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            first = await make(jobs, jobs_at_once=2)
            await make(jobs, jobs_at_once=2)
            await jobs.begin()
            with pytest.raises(TooManyJobs, match=r"2 of your jobs .* may have 2; wait for one to end") as no:
                await make(jobs, jobs_at_once=2)
            assert (no.value.status, no.value.code) == (429, "too_many_jobs")
            with pytest.raises(TooManyJobs):
                await jobs.store.admit("me", None, 1, Allowance(jobs_at_once=2))
            await make(jobs, caller="another", jobs_at_once=2)
            await jobs.store.cancel(first.job_id)
            await make(jobs, jobs_at_once=2)

    run(main())


@pytest.mark.parametrize("allowed", [{"jobs_at_once": 5}, {"covers_per_month": 10}])
def test_a_limit_of_a_key_holds_for_requests_at_once_in_several_processes(
    opened: Opened, allowed: dict[str, Any]
) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            made = await asyncio.gather(*(make(one, **allowed) for one in (here, there) * 8), return_exceptions=True)
        assert sum(isinstance(one, Job) for one in made) == 5

    run(main())


def test_covers_of_a_month_are_those_made_and_those_under_way(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            for n in (2, 3):
                await make(jobs, n=n, covers_per_month=6)
            with pytest.raises(QuotaExceeded, match=r"n = 2: .* had 0 covers this month, 5 are under way, .* 6; wait"):
                await make(jobs, n=2, covers_per_month=6)
            await jobs.queue.succeed(await jobs.begin(), RESULT)  # one cover, and one that was refused
            await make(jobs, n=2, covers_per_month=6)
            assert (await usage_of(jobs))[0] == 1
            with pytest.raises(QuotaExceeded, match=r"had 1 covers this month, 5 are under way") as no:
                await make(jobs, n=6, covers_per_month=6)
            assert (no.value.status, no.value.code) == (429, "quota_exceeded")
            assert 1 <= no.value.retry_after_s <= 31 * 86_400
            assert "the month ends in" in no.value.message
            with pytest.raises(InputError, match=r"n = 7: this API key may have 6 covers a month"):
                await make(jobs, n=7, covers_per_month=6)

    run(main())


def test_covers_of_jobs_that_come_to_nothing_are_not_counted(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            cancelled = await make(jobs, n=6, covers_per_month=6)
            await jobs.store.cancel(cancelled.job_id)
            await make(jobs, n=6, covers_per_month=6)
            await jobs.queue.fail(await jobs.begin(), GatefoldError("broken"))
            await make(jobs, n=6, covers_per_month=6)
            assert (await usage_of(jobs))[0] == 0

    run(main())


def test_seconds_of_generation_are_counted_once_however_a_job_ends(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            seconds = 0.0
            for end in ("succeed", "fail", "cancel", "before"):
                made = await make(jobs)
                if end == "before":
                    await jobs.store.cancel(made.job_id)
                    continue
                claim = await jobs.begin()
                await asyncio.sleep(0.05)
                if end == "cancel":
                    await jobs.store.cancel(made.job_id)
                    await jobs.store.cancel(made.job_id)
                elif end == "fail":
                    await jobs.queue.fail(claim, GatefoldError("broken"))
                else:
                    await jobs.queue.succeed(claim, RESULT)
                seconds += (await jobs.store.get(made.job_id)).generation_s or 0.0
            assert seconds > 0.15
            covers, counted = await usage_of(jobs)
            assert covers == 1
            assert counted == pytest.approx(seconds, abs=1e-3)

    run(main())
