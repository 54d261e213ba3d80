"""How many jobs wait, and how they ended, as both kinds of database count them; and what a job carries."""

from dataclasses import replace

import sqlalchemy as sa

from gatefold.errors import RunnerLost
from serve.jobs import tables
from serve.jobs.records import spec_of, spec_record
from serve.jobs.store import new_job_id
from serve.observability import metrics
from serve.observability.carried import NOTHING, Carried
from tests.observed import Counted
from tests.unit.serve.jobs.conftest import SPEC, Opened, run, soon


def test_what_the_request_carried_lies_with_its_job(opened: Opened) -> None:
    carried = Carried("r-1", "j-1", "0123abcd", f"00-{1:032x}-{2:016x}-01")

    async def main() -> None:
        async with opened() as there, opened() as here:
            await there.store.create(new_job_id(), replace(SPEC, carried=carried), caller="me")
            assert (await here.claim()).job.spec.carried == carried

    run(main())


def test_a_job_of_an_earlier_version_carries_nothing() -> None:
    record = spec_record(SPEC)
    del record["carried"]
    assert spec_of(record).carried == NOTHING


EACH = [(state, queue) for state in ("queued", "running") for queue in ("single", "batch")]


def test_the_queue_says_how_many_jobs_wait_and_since_when(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            assert await jobs.queue.unfinished() == (dict.fromkeys(EACH, 0), 0.0)
            for _ in range(3):
                await jobs.make()
            await jobs.begin()
            counts, oldest_s = await jobs.queue.unfinished()
            assert counts == dict.fromkeys(EACH, 0) | {("queued", "single"): 2, ("running", "single"): 1}
            assert 0 <= oldest_s < 20

    run(main())


def test_the_jobs_of_batches_wait_for_others_and_are_not_the_oldest(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            job = await jobs.make()
            async with jobs.database.write() as connection:
                await connection.execute(sa.update(tables.jobs).values(batch_id="b", created_at=1.0))
            assert await jobs.queue.unfinished() == (dict.fromkeys(EACH, 0) | {("queued", "batch"): 1}, 0.0)
            assert job.state == "queued"

    run(main())


def test_a_job_that_ended_its_runners_is_counted_by_its_code(opened: Opened, counted: Counted) -> None:
    async def main() -> None:
        async with opened(job_lease_s=0.01, job_attempts_max=1) as jobs:
            await jobs.make()
            await jobs.begin()

            async def lost() -> bool:
                await jobs.queue.claim("another", 1)
                return bool(counted.of(metrics.JOB_FAILURES, RunnerLost.code))

            await soon(lost)

    run(main())
    assert counted.of(metrics.JOB_FAILURES, RunnerLost.code) == [1]
    assert counted.of(metrics.JOBS_ENDED, "failed") == [1]
