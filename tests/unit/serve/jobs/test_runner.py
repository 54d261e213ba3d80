import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.errors import DatabaseUnavailable, InputError, Unavailable
from gatefold.storage import objects
from serve.interfaces import GenerationJob, GenerationResult
from serve.jobs.files import JobFiles
from serve.jobs.jobs import Claim
from serve.jobs.queue import JobQueue
from serve.jobs.store import new_job_id
from serve.jobs.sweeper import Sweeper
from tests.unit.serve.conftest import RELEASE, Generator
from tests.unit.serve.jobs.conftest import Opened, run, soon
from tests.unit.serve.jobs.machines import NEXT, POLL_S, SONG, machine


def test_what_a_job_gave_is_read_by_a_process_that_never_ran_it(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as there, machine(opened, tmp_path) as here:
            there.generator.refuses = {41}
            job = await there.make()
            there.run()
            job = await here.until(job, "succeeded")
            assert job.result is not None
            assert [cover.is_refused for cover in job.result.covers] == [False, True]
            assert [match.track.song_id for match in job.result.matches] == ["t0", "t1"]
            generated = await here.files.generated(job, 0)
            assert np.array_equal(generated.pixels, np.full((3, 8, 8), 40, np.uint8))
            assert generated.attribution is not None
            assert np.array_equal(generated.attribution.holder[:, 0], [0] * 4 + [1] * 4)
            assert [share.share for share in generated.attribution.shares] == [0.5, 0.5]
            assert (generated.seed, generated.palette_from) == (40, "t1")
            assert here.kept(job) == [f"run-1/{name}" for name in ("0-sources.png", "0.png", "manifest.json")]

    run(main())


def test_an_uploaded_song_is_stored_until_its_job_ends(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            it.generator.hold = True
            job = await it.make()
            it.run()
            await it.until(job, "running")
            assert await it.files.read_song(job.job_id) == SONG
            it.generator.hold = False
            await it.until(job, "succeeded")

            async def gone() -> bool:
                return "song" not in it.kept(job)

            await soon(gone)

    run(main())


def test_a_job_of_another_release_is_encoded_again_by_the_one_that_runs_it(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            job = await it.make()
            it.switch_to(NEXT)
            it.run()
            job = await it.until(job, "succeeded")
            assert it.encoder.encoded == ["x.mp3", "x.mp3"]
            assert job.spec.release == NEXT
            assert it.generator.jobs[0].seeds == [40, 41]

    run(main())


def test_a_cancelled_job_stops_its_generator_in_another_process(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as there, machine(opened, tmp_path) as here:
            there.generator.hold = True
            job = await there.make()
            there.run()
            await here.until(job, "running")
            await here.jobs.store.cancel(job.job_id)

            async def stopped() -> bool:
                return there.generator.stopped == 1

            await soon(stopped)
            assert (await here.jobs.store.get(job.job_id)).state == "cancelled"

    run(main())


def test_a_runner_that_is_closed_hands_its_jobs_back_to_another(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as there, machine(opened, tmp_path) as here:
            there.generator.hold = True
            job = await there.make()
            runner = there.run()
            await there.until(job, "running")
            await runner.close()
            assert (await here.jobs.store.get(job.job_id)).state == "queued"
            assert there.generator.stopped == 1
            here.run()
            job = await here.until(job, "succeeded")
            assert job.result is not None
            assert job.result.folder == "run-2"

    run(main())


class Frozen(JobQueue):
    """Of a process that stands still: it claims once, and then renews nothing."""

    claimed = False

    async def claim(self, runner: str, count: int) -> list[Claim]:
        if self.claimed:
            return []
        found = await super().claim(runner, count)
        self.claimed = bool(found)
        return found

    async def renew(self, claim: Claim) -> None: ...

    async def check(self, claim: Claim) -> None: ...

    async def advance(self, claim: Claim, progress: float) -> None: ...


def test_a_job_of_a_runner_that_stood_still_ends_once_with_the_same_bytes(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        short = {"job_lease_s": 0.2}
        async with machine(opened, tmp_path, **short) as lost, machine(opened, tmp_path, **short) as here:
            lost.generator.hold = True
            job = await lost.make()
            queue = Frozen(lost.jobs.database, lost.limits)
            lost.run(queue)
            await lost.until(job, "running")
            here.run()
            job = await here.until(job, "succeeded")
            assert job.result is not None
            assert job.result.folder == "run-2"
            lost.generator.hold = False  # it goes on, generates to the end, and may not say so

            async def finished() -> bool:
                return f"run-1/{1}.png" in here.kept(job)

            await soon(finished)
            await asyncio.sleep(5 * POLL_S)
            later = await here.jobs.store.get(job.job_id)
            assert (later.result, later.last_event, later.finished_at) == (job.result, job.last_event, job.finished_at)
            first, second = (objects.read(f"{here.workspace.jobs}/{job.job_id}/run-{i}/0.png") for i in (1, 2))
            assert first == second

    run(main())


class Away(JobQueue):
    """Whose database does not answer for a while, when a job is to end."""

    outages = 3

    async def succeed(self, claim: Any, result: Any) -> None:
        if self.outages:
            self.outages -= 1
            raise DatabaseUnavailable("the database of jobs does not answer")
        await super().succeed(claim, result)


def test_what_was_generated_is_not_given_up_for_an_outage_of_the_database(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            job = await it.make()
            it.run(Away(it.jobs.database, it.limits))
            await it.until(job, "succeeded")
            assert len(it.generator.jobs) == 1

    run(main())


@dataclass
class Flaky(Generator):
    """Does not answer the first times."""

    outages: int = 2

    async def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        if self.outages:
            self.outages -= 1
            yield 0.0
            raise Unavailable("the replica that worked on this was lost; try again later")
        async for news in super().generate(job):
            yield news


@pytest.mark.parametrize(("outages", "state"), [(2, "succeeded"), (3, "failed")])
def test_a_job_is_tried_again_where_something_does_not_answer_and_so_often(
    opened: Opened, tmp_path: Path, outages: int, state: str
) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path, job_attempts_max=3) as it:
            it.generator = Flaky(outages=outages)
            it.switch_to(RELEASE)
            job = await it.make()
            it.run()
            job = await it.until(job, state)
            assert (job.error.code if job.error else None) == (None if state == "succeeded" else "unavailable")

    run(main())


def test_a_store_that_takes_no_pictures_is_tried_again_and_never_named(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path, job_attempts_max=2) as it:
            job = await it.make()
            (tmp_path / "workspace" / "jobs" / job.job_id / "run-1").write_text("in the way")
            it.run()
            job = await it.until(job, "succeeded")
            assert job.result is not None
            assert job.result.folder == "run-2"

    run(main())


def test_a_job_that_cannot_be_done_fails_with_the_reason(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            it.generator.failure = InputError("size = 8: too small")
            job = await it.make()
            it.run()
            job = await it.until(job, "failed")
            assert job.error is not None
            assert (job.error.message, job.generation_s is None) == ("size = 8: too small", False)

    run(main())


def test_a_runner_takes_no_more_than_the_generator_can_and_one(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            it.generator.hold = True
            for _ in range(12):
                await it.make(n=1)
            it.run()
            await asyncio.sleep(0.5)
            assert len(await it.jobs.queue.claim("another", 12)) == 3  # its capacity is 8

    run(main())


def test_expired_jobs_go_with_their_files_and_so_do_files_without_a_job(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path, results_kept_s=0.05) as it:
            job = await it.make()
            it.run()
            orphan = new_job_id()
            await it.files.put_song(orphan, SONG)

            async def gone() -> bool:
                return await it.jobs.queue.known([job.job_id]) == set() and it.kept(job) == []

            await soon(gone)
            waits = await it.make()
            sweeper = Sweeper(it.jobs.queue, it.files, 1)
            assert await sweeper.delete_orphans(60) == 0
            await it.jobs.store.cancel(waits.job_id)
            assert await sweeper.delete_orphans(0) == 1
            assert objects.exists(f"{it.workspace.jobs}/{orphan}/song") is False

    run(main())


def test_a_fault_of_the_code_does_not_end_the_deletion_of_expired_jobs(
    tmp_path: Path, opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            sweeper, turns = Sweeper(it.jobs.queue, it.files, POLL_S), 0

            async def fails_first() -> int:
                nonlocal turns
                turns += 1
                if turns == 1:
                    raise ValueError("unforeseen")
                return 0

            sweeper.delete_expired = fails_first  # type: ignore[method-assign]  # a fault that no file can cause
            async def went_on() -> bool:
                return turns > 2

            task = asyncio.create_task(sweeper.run())
            await soon(went_on)
            task.cancel()
            assert "unforeseen" in caplog.text

    run(main())


def test_pictures_are_kept_in_memory_up_to_a_limit(tmp_path: Path, opened: Opened) -> None:
    async def main() -> None:
        async with machine(opened, tmp_path) as it:
            it.files = JobFiles(it.workspace, 2 * (3 + 1) * 8 * 8)
            job = await it.make(n=3)
            it.run()
            job = await it.until(job, "succeeded")
            for place in range(3):
                await it.files.generated(job, place)
            for kept in ("0.png", "1.png", "2.png"):
                objects.delete(f"{it.workspace.jobs}/{job.job_id}/run-1/{kept}")
            for place in (1, 2):
                await it.files.generated(job, place)
            with pytest.raises(Exception, match="has been deleted with its files"):
                await it.files.generated(job, 0)

    run(main())
