import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import numpy as np
import pytest

from gatefold.errors import GatefoldError, IdempotencyConflict, Overloaded, UnknownJob
from gatefold.generator.interface import GenerationRequest
from serve.interfaces import GenerationJob, GenerationResult, ServedBundle, ServedRelease
from serve.jobs.jobs import GeneratedCovers, Idempotency, InProcessJobs, Job, JobSpec

T = TypeVar("T")
PART = ServedBundle("v", "f")
RELEASE = ServedRelease("r1", PART, PART, PART)
JOB = GenerationJob(np.zeros(4, np.float32), None, None, [7, 8], GenerationRequest(size=64), None)
ORDER = JobSpec(RELEASE, JOB, (), n=2, seed=7, size=64)
GENERATED = GeneratedCovers(GenerationResult((), ()), (None, None))


def run(main: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main)


def table(under_way: int = 10, kept: int = 10) -> InProcessJobs:
    return InProcessJobs(max_unfinished=under_way, max_finished=kept)


async def made(jobs: InProcessJobs) -> Job:
    job, _ = await jobs.create(ORDER, None)
    return job


def test_a_job_goes_from_queued_through_running_to_succeeded() -> None:
    async def main() -> None:
        jobs = table()
        job = await made(jobs)
        assert (job.state, job.position, job.progress, job.finished_at) == ("queued", 0, 0.0, None)
        running = await jobs.advance(job.job_id, 0.5)
        assert (running.state, running.position, running.progress) == ("running", None, 0.5)
        done = await jobs.succeed(job.job_id, GENERATED)
        assert (done.state, done.progress, done.generated) == ("succeeded", 1.0, GENERATED)
        assert done.finished_at is not None
        assert await jobs.get(job.job_id) == done

    run(main())


def test_the_end_of_a_job_is_final() -> None:
    async def main() -> None:
        jobs = table()
        job = await made(jobs)
        await jobs.cancel(job.job_id)
        for change in (
            jobs.advance(job.job_id, 0.1),
            jobs.succeed(job.job_id, GENERATED),
            jobs.fail(job.job_id, GatefoldError("late")),
            jobs.cancel(job.job_id),
        ):
            assert (await change).state == "cancelled"

    run(main())


def test_positions_count_the_queued_jobs_ahead_and_move_up() -> None:
    async def main() -> None:
        jobs = table()
        first, second, third = [await made(jobs) for _ in range(3)]
        assert [first.position, second.position, third.position] == [0, 1, 2]
        await jobs.advance(first.job_id, 0.0)
        assert [(await jobs.get(j.job_id)).position for j in (first, second, third)] == [None, 0, 1]
        await jobs.cancel(second.job_id)
        assert (await jobs.get(third.job_id)).position == 0
        changes = [job async for _, job in _until(jobs, third.job_id, 3)]
        assert [job.position for job in changes] == [2, 1, 0]

    run(main())


async def _until(jobs: InProcessJobs, job_id: str, count: int) -> Any:
    async for number, job in jobs.events(job_id, 0):
        yield number, job
        if number == count:
            return


def test_jobs_beyond_the_limit_are_refused_with_a_time_to_come_back() -> None:
    async def main() -> None:
        jobs = table(under_way=2)
        first, _ = await made(jobs), await made(jobs)
        with pytest.raises(Overloaded, match=r"2 jobs are under way, at most 2 \(serve.jobs_max\)") as refused:
            await made(jobs)
        assert refused.value.retry_after_s > 0
        await jobs.cancel(first.job_id)
        await made(jobs)

    run(main())


def test_the_oldest_finished_job_is_forgotten_with_its_key() -> None:
    async def main() -> None:
        jobs = table(kept=2)
        ids = []
        for i in range(3):
            job, _ = await jobs.create(ORDER, Idempotency(f"key {i}", "same"))
            await jobs.cancel(job.job_id)
            ids.append(job.job_id)
        with pytest.raises(UnknownJob, match="the last 2 finished jobs are kept"):
            await jobs.get(ids[0])
        assert (await jobs.get(ids[1])).job_id == ids[1]
        assert await jobs.find(Idempotency("key 0", "same")) is None
        assert await jobs.find(Idempotency("key 1", "same")) is not None

    run(main())


def test_the_same_key_and_request_give_the_same_job() -> None:
    async def main() -> None:
        jobs = table(under_way=1)
        first, new = await jobs.create(ORDER, Idempotency("k", "a"))
        again, new_again = await jobs.create(ORDER, Idempotency("k", "a"))
        assert (new, new_again) == (True, False)
        assert first.job_id == again.job_id

    run(main())


def test_the_same_key_for_another_request_is_a_conflict() -> None:
    async def main() -> None:
        jobs = table()
        await jobs.create(ORDER, Idempotency("k", "a"))
        with pytest.raises(IdempotencyConflict, match="use a new key"):
            await jobs.create(ORDER, Idempotency("k", "b"))

    run(main())


def test_events_tell_every_change_as_it_happens_and_end_with_the_job() -> None:
    async def main() -> None:
        jobs = table()
        job = await made(jobs)

        async def follow() -> list[tuple[int, str, float]]:
            return [(number, j.state, j.progress) async for number, j in jobs.events(job.job_id, 0)]

        follower = asyncio.create_task(follow())
        for progress in (0.0, 0.5, 0.5, 1.0):
            await asyncio.sleep(0)
            await jobs.advance(job.job_id, progress)
        await jobs.succeed(job.job_id, GENERATED)
        assert await asyncio.wait_for(follower, 1) == [
            (1, "queued", 0.0), (2, "running", 0.0), (3, "running", 0.5), (4, "running", 1.0), (5, "succeeded", 1.0)
        ]  # fmt: skip

    run(main())


def test_events_replay_only_what_came_after_the_number_given() -> None:
    async def main() -> None:
        jobs = table()
        job = await made(jobs)
        await jobs.advance(job.job_id, 0.5)
        await jobs.fail(job.job_id, GatefoldError("broken"))
        assert [n async for n, _ in jobs.events(job.job_id, 1)] == [2, 3]
        assert [n async for n, _ in jobs.events(job.job_id, 3)] == []
        assert [n async for n, _ in jobs.events(job.job_id, 99)] == []

    run(main())


def test_waiting_for_the_end_returns_at_the_end_or_when_time_is_up() -> None:
    async def main() -> None:
        jobs = table()
        job = await made(jobs)
        assert (await jobs.ended(job.job_id, 0.01)).state == "queued"
        waiting = asyncio.create_task(jobs.ended(job.job_id, 5))
        await asyncio.sleep(0)
        await jobs.succeed(job.job_id, GENERATED)
        assert (await asyncio.wait_for(waiting, 1)).state == "succeeded"

    run(main())
