import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from gatefold.errors import GatefoldError, InputError, LeaseLost, Overloaded, RunnerLost
from serve.interfaces import ServedRelease
from serve.jobs.jobs import Claim
from tests.unit.serve.jobs.conftest import BUNDLE, RESULT, SPEC, Jobs, Opened, run

SHORT_S = 0.15
"""seconds of a lease that is to end within a test"""
Write = Callable[[Jobs, Claim], Coroutine[Any, Any, None]]
WRITES: dict[str, Write] = {
    "renew": lambda jobs, claim: jobs.queue.renew(claim),
    "check": lambda jobs, claim: jobs.queue.check(claim),
    "respecify": lambda jobs, claim: jobs.queue.respecify(claim, SPEC),
    "begin": lambda jobs, claim: jobs.queue.begin(claim),
    "advance": lambda jobs, claim: jobs.queue.advance(claim, 0.5),
    "succeed": lambda jobs, claim: jobs.queue.succeed(claim, RESULT),
    "fail": lambda jobs, claim: jobs.queue.fail(claim, GatefoldError("late")),
}


def test_jobs_are_claimed_by_priority_and_then_in_order_each_once(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            low, first, second, urgent = [await jobs.make(priority=p) for p in (-1, 0, 0, 1)]
            claims = await jobs.queue.claim("runner", 3)
            assert [claim.job.job_id for claim in claims] == [urgent.job_id, first.job_id, second.job_id]
            assert [claim.job.state for claim in claims] == ["queued"] * 3
            assert [claim.job.job_id for claim in await jobs.queue.claim("another", 3)] == [low.job_id]
            assert await jobs.queue.claim("another", 3) == []

    run(main())


def test_runners_that_claim_at_once_share_the_jobs_between_them(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            made = {(await here.make()).job_id for _ in range(12)}
            claims: list[str] = []
            while len(claims) < len(made):
                found = await asyncio.gather(*(one.queue.claim("runner", 2) for one in (here, there) * 3))
                claims += [claim.job.job_id for some in found for claim in some]
        assert sorted(claims) == sorted(made)

    run(main())


def test_a_claim_that_is_renewed_stays_and_one_that_is_not_goes_to_another_runner(opened: Opened) -> None:
    async def main() -> None:
        async with opened(job_lease_s=1) as jobs:
            await jobs.make()
            claim = await jobs.claim()
            for _ in range(3):
                await asyncio.sleep(0.4)
                await jobs.queue.renew(claim)
                assert await jobs.queue.claim("another", 1) == []
            await asyncio.sleep(1.1)
            (again,) = await jobs.queue.claim("another", 1)
            assert again.token > claim.token

    run(main())


@pytest.mark.parametrize("write", WRITES)
def test_a_runner_that_lost_its_lease_to_another_may_write_nothing_more(opened: Opened, write: str) -> None:
    async def main() -> None:
        async with opened(job_lease_s=SHORT_S) as jobs:
            await jobs.make()
            lost = await jobs.begin()
            await asyncio.sleep(1.2 * SHORT_S)
            held = await jobs.begin()
            with pytest.raises(LeaseLost, match="another runner has it by now"):
                await WRITES[write](jobs, lost)
            await jobs.queue.hand_back(lost)
            job = await jobs.store.get(lost.job.job_id)
            assert (job.state, job.progress) == ("running", 0.0)
            await jobs.queue.succeed(held, RESULT)

    run(main())


@pytest.mark.parametrize("write", WRITES)
def test_a_runner_of_a_job_that_was_cancelled_may_write_nothing_more(opened: Opened, write: str) -> None:
    async def main() -> None:
        async with opened() as jobs:
            await jobs.make()
            claim = await jobs.begin()
            await jobs.store.cancel(claim.job.job_id)
            with pytest.raises(LeaseLost, match="was cancelled"):
                await WRITES[write](jobs, claim)
            await jobs.queue.hand_back(claim)
            assert (await jobs.store.get(claim.job.job_id)).state == "cancelled"

    run(main())


def test_a_lease_that_ended_may_still_be_used_while_nobody_else_has_the_job(opened: Opened) -> None:
    async def main() -> None:
        async with opened(job_lease_s=SHORT_S) as jobs:
            await jobs.make()
            claim = await jobs.begin()
            await asyncio.sleep(1.2 * SHORT_S)
            await jobs.queue.succeed(claim, RESULT)
            assert await jobs.queue.claim("another", 1) == []

    run(main())


def test_a_job_whose_runner_is_lost_is_queued_again_and_so_often_fails(opened: Opened) -> None:
    async def main() -> None:
        async with opened(job_lease_s=SHORT_S, job_attempts_max=3) as jobs:
            made = await jobs.make()
            for attempt in range(3):
                claim = await jobs.begin()
                assert claim.token == attempt + 1
                await asyncio.sleep(1.2 * SHORT_S)
            assert await jobs.queue.claim("another", 1) == []
            job = await jobs.store.get(made.job_id)
            assert job.state == "failed"
            assert isinstance(job.error, RunnerLost)
            assert "was lost 3 times while it generated" in job.error.message
            assert job.expires_at is not None
            states = [one.state async for _, one in jobs.store.events(made.job_id, 0)]
            assert states == ["queued", *["running", "queued"] * 2, "running", "failed"]

    run(main())


def test_a_job_that_was_claimed_and_not_begun_loses_no_attempt_with_its_runner(opened: Opened) -> None:
    async def main() -> None:
        async with opened(job_lease_s=SHORT_S, job_attempts_max=1) as jobs:
            await jobs.make()
            for _ in range(3):
                await jobs.claim()
                await asyncio.sleep(1.2 * SHORT_S)
            claim = await jobs.begin()
            assert await jobs.queue.attempts_left(claim) == 0

    run(main())


def test_a_job_that_is_handed_back_is_claimed_anew_and_loses_no_attempt(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            claim = await jobs.begin()
            await jobs.queue.advance(claim, 0.5)
            await jobs.queue.hand_back(claim)
            job = await jobs.store.get(made.job_id)
            assert (job.state, job.progress, job.started_at, job.position) == ("queued", 0.0, None, 0)
            again = await jobs.begin()
            assert await jobs.queue.attempts_left(again) == 2
            await jobs.queue.hand_back(again, counts=True)
            assert await jobs.queue.attempts_left(await jobs.claim()) == 2

    run(main())


def test_a_job_that_is_handed_back_for_later_waits_so_long(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            await jobs.make()
            await jobs.queue.hand_back(await jobs.begin(), after_s=SHORT_S)
            assert await jobs.queue.claim("runner", 1) == []
            await asyncio.sleep(1.2 * SHORT_S)
            await jobs.begin()

    run(main())


def test_a_job_may_be_generated_by_another_release_than_it_was_made_for(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            claim = await jobs.claim()
            other = replace(SPEC, release=ServedRelease("r2", BUNDLE, BUNDLE, BUNDLE))
            await jobs.queue.respecify(claim, other)
            assert (await jobs.store.get(made.job_id)).spec.release.version == "r2"

    run(main())


@pytest.mark.parametrize("error", [InputError("size = 5: too small"), Overloaded("full", 7), GatefoldError("broken")])
def test_an_error_is_read_as_it_was_written(opened: Opened, error: GatefoldError) -> None:
    async def main() -> None:
        async with opened() as jobs:
            made = await jobs.make()
            await jobs.queue.fail(await jobs.claim(), error)
            found = (await jobs.store.get(made.job_id)).error
            assert (type(found), found.args if found else None) == (type(error), error.args)

    run(main())


def test_expired_jobs_are_found_and_forgotten_and_no_others(opened: Opened) -> None:
    async def main() -> None:
        async with opened(results_kept_s=0.05) as jobs:
            gone, waits = await jobs.make(), await jobs.make()
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            await asyncio.sleep(0.1)
            assert await jobs.queue.expired(10) == [gone.job_id]
            await jobs.queue.forget([gone.job_id, waits.job_id])
            assert await jobs.queue.known([gone.job_id, waits.job_id]) == {waits.job_id}
            assert await jobs.queue.expired(10) == []

    run(main())
