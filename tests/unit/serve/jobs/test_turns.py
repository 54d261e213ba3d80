"""Callers take turns: however many jobs one has queued, another's waits for those in hand and no more."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import sqlalchemy as sa

from gatefold.errors import Overloaded
from serve.interfaces import GenerationJob, GenerationResult
from serve.jobs.jobs import Job
from serve.jobs.rows import ORDER
from serve.jobs.tables import jobs as table
from tests.unit.serve.conftest import RELEASE, Generator
from tests.unit.serve.jobs.conftest import RESULT, Jobs, Opened, copied, run
from tests.unit.serve.jobs.machines import machine

LASTS_S, OVERHEAD_S = 1.0, 0.9
"""of a job; less than another job's time for claims, polls and a busy machine"""


class OneByOne(Generator):
    """One job at a time, each of a second."""

    async def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        await asyncio.sleep(LASTS_S)
        async for one in super().generate(job):
            yield one

    async def capacity(self) -> int:
        return 1


async def run_one(jobs: Jobs) -> Job:
    claim = await jobs.begin()
    await jobs.queue.succeed(claim, RESULT)
    return claim.job


def test_a_thousand_jobs_of_one_key_let_the_one_of_another_go_next(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            await copied(jobs, await jobs.make("many"), 1000)
            for _ in range(3):
                await run_one(jobs)
            in_hand = await jobs.begin()
            made = await jobs.make("one")
            assert made.position == 0
            assert (await jobs.claim()).job.job_id == made.job_id
            assert in_hand.job.caller == "many"

    run(main())


def test_keys_with_many_jobs_each_take_turns_one_by_one(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            await copied(jobs, await jobs.make("a"), 300)
            await run_one(jobs)
            for caller in ("b", "c"):
                for _ in range(5):
                    await jobs.make(caller)
            order = [(await run_one(jobs)).caller for _ in range(15)]
            assert [Counter(order[i : i + 3]) for i in range(0, 15, 3)] == [Counter("abc")] * 5
            assert (await run_one(jobs)).caller == "a"

    run(main())


def test_a_key_that_waits_is_not_overtaken_by_keys_that_come_later(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            await copied(jobs, await jobs.make("many"), 50)
            await run_one(jobs)
            first = await jobs.make("first")
            for i in range(20):
                await jobs.make(f"later-{i}")
            assert (await run_one(jobs)).job_id == first.job_id

    run(main())


def test_what_a_key_had_done_before_is_not_held_against_it(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            for _ in range(5):
                await jobs.make("diligent")
                await run_one(jobs)
            await copied(jobs, await jobs.make("many"), 20)
            await jobs.make("diligent")
            callers = [(await run_one(jobs)).caller for _ in range(2)]
            assert sorted(callers) == ["diligent", "many"]

    run(main())


def test_a_higher_priority_goes_before_all_turns_and_has_turns_of_its_own(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            await copied(jobs, await jobs.make("many"), 50)
            await run_one(jobs)
            low = await jobs.make("patient", priority=-1)
            urgent = [await jobs.make(caller, priority=1) for caller in ("many", "many", "other")]
            order = [(await run_one(jobs)).job_id for _ in range(3)]
            assert order == [urgent[0].job_id, urgent[2].job_id, urgent[1].job_id]
            assert (await run_one(jobs)).caller == "many"
            assert (await jobs.store.get(low.job_id)).position == 48

    run(main())


def test_turns_go_on_when_all_jobs_that_ended_have_been_deleted(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=2000) as jobs:
            await copied(jobs, await jobs.make("many"), 50)
            done = [(await run_one(jobs)).job_id for _ in range(10)]
            await jobs.queue.forget(done)
            one = await jobs.make("one")
            order = [(await run_one(jobs)).job_id for _ in range(2)]
            assert one.job_id in order

    run(main())


def test_a_full_queue_takes_one_more_job_of_a_key_that_has_none_in_it(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=3) as jobs:
            for _ in range(3):
                await jobs.make("many")
            with pytest.raises(Overloaded, match=r"serve\.jobs_max"):
                await jobs.make("many")
            await jobs.make("one")
            with pytest.raises(Overloaded, match=r"serve\.jobs_max"):
                await jobs.make("one")

    run(main())


def test_the_next_job_is_found_along_an_index_without_sorting_the_queue(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            query = sa.select(table.c.number).where(table.c.state == "queued").order_by(*ORDER).limit(1)
            text = query.compile(compile_kwargs={"literal_binds": True})
            async with jobs.database.read() as connection:
                if not jobs.database.is_sqlite:
                    await connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
                    await connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))
                explain = "EXPLAIN QUERY PLAN" if jobs.database.is_sqlite else "EXPLAIN"
                plan = str((await connection.execute(sa.text(f"{explain} {text}"))).all())
            assert "jobs_queue" in plan
            assert "Sort" not in plan
            assert "TEMP B-TREE" not in plan

    run(main())


@pytest.mark.slow
def test_ten_thousand_queued_jobs_slow_neither_claims_nor_acceptance_much(opened: Opened) -> None:
    """Bounds wide enough for a busy machine; `python -m benchmarks.job_queue` measures."""

    async def main() -> None:
        async with opened(jobs_max=20_000) as jobs:
            await copied(jobs, await jobs.make("many"), 10_000)
            claims, made = [], []
            for i in range(10):
                began = time.perf_counter()
                await jobs.make(f"other-{i}")
                made.append(time.perf_counter() - began)
                began = time.perf_counter()
                await jobs.claim()
                claims.append(time.perf_counter() - began)
            assert sorted(claims)[5] < 0.2
            assert sorted(made)[5] < 0.2

    run(main())


def test_behind_a_thousand_jobs_of_one_key_anothers_starts_within_the_time_of_two(
    opened: Opened, tmp_path: Path
) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path, jobs_max=2000) as it:
            it.generator = OneByOne()
            it.switch_to(RELEASE)
            first = await it.make(n=1)
            await copied(it.jobs, first, 1000)
            it.run()
            await it.until(first, "succeeded")
            other = await it.make(n=1, caller="other")
            started = (await it.until(other, "succeeded")).started_at
            assert started is not None
            assert (started - other.created_at).total_seconds() < 2 * LASTS_S + OVERHEAD_S

    run(main())
