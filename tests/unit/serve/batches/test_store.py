import asyncio

import pytest
import sqlalchemy as sa

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, LeaseLost, NotFound, Overloaded
from gatefold.serve_settings import JobBatchSettings
from serve.access.callers import Allowance
from serve.access.keys import KeyStore
from serve.batches.lines import COVERS, SEARCHES, BatchLine
from serve.batches.store import PRIORITY, BatchStore, LineAnswer
from serve.jobs.jobs import Webhook
from serve.jobs.tables import batch_lines, batches
from serve.observability.metrics import JOBS_ENDED
from serve.webhooks.outbox import Outbox
from tests.observed import Counted
from tests.unit.serve.jobs.conftest import RESULT, SPEC, Jobs, Opened, run


def store_of(jobs: Jobs, results_kept_s: float = 60, **settings: object) -> BatchStore:
    limits = ServeSettings(results_kept_s=results_kept_s, batches=JobBatchSettings.model_validate(settings))
    return BatchStore(jobs.database, limits)


async def made(store: BatchStore, *urls: str, caller: str = "me") -> str:
    batch_id = await store.begin(caller)
    lines = [BatchLine(number, f"c{number}", url, {"n": number}) for number, url in enumerate(urls, start=1)]
    for start in range(0, len(lines), 2):
        await store.add(batch_id, lines[start : start + 2])
    assert (await store.arrived(batch_id)).lines == len(urls)
    return batch_id


async def answers(store: BatchStore, batch_id: str) -> list[LineAnswer]:
    return [one async for some in store.answers(batch_id) for one in some]


def test_lines_become_jobs_and_answers_and_then_the_batch_is_completed(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            batch_id = await made(store, COVERS, SEARCHES, COVERS, SEARCHES)
            claims = {claim.line: claim for claim in await store.claim(10)}
            assert {line: claim.body for line, claim in claims.items()} == {n: {"n": n} for n in (1, 2, 3, 4)}
            job_ids = [await store.create_job(claims[line], SPEC, None) for line in (1, 3)]
            await store.answer(claims[2], 200, {"matches": []})
            await store.answer(claims[4], 404, {"code": "unknown_track"})
            assert (await store.get(batch_id)).counts == {"waiting": 2, "succeeded": 1, "failed": 1}
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            await store.end_due()
            assert (await store.get(batch_id)).state == "running"
            await jobs.queue.fail(await jobs.begin(), GatefoldError("broken"))
            await store.end_due()
            batch = await store.get(batch_id)
            assert (batch.state, batch.counts) == ("completed", {"succeeded": 2, "failed": 2})
            assert batch.finished_at is not None
            found = await answers(store, batch_id)
            assert [(one.line, one.custom_id, one.status) for one in found] == [
                (1, "c1", 200), (2, "c2", 200), (3, "c3", 500), (4, "c4", 404)
            ]  # fmt: skip
            assert [one.job.job_id for one in found if one.job] == job_ids

    run(main())


def test_jobs_of_a_batch_go_after_all_others_and_take_none_of_their_places(opened: Opened) -> None:
    async def main() -> None:
        async with opened(jobs_max=1) as jobs:
            store = store_of(jobs)
            await made(store, COVERS, COVERS)
            for claim in await store.claim(10):
                await store.create_job(claim, SPEC, None)
            urgent = await jobs.make()
            claim = await jobs.claim()
            assert (claim.job.job_id, PRIORITY) == (urgent.job_id, -1)

    run(main())


def test_few_jobs_are_under_way_at_a_time_and_searches_go_on_meanwhile(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, jobs_at_once=2)
            await made(store, COVERS, COVERS, COVERS, SEARCHES)
            claims = await store.claim(10)
            assert [claim.line for claim in claims] == [1, 2, 4]
            for claim in claims[:2]:
                await store.create_job(claim, SPEC, None)
            assert await store.claim(10) == []
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            assert [claim.line for claim in await store.claim(10)] == [3]

    run(main())


def test_batches_take_turns(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            first, second = await made(store, *[SEARCHES] * 3), await made(store, SEARCHES)
            assert [claim.batch_id for claim in await store.claim(3)] == [first, second, first]

    run(main())


def test_a_batch_that_comes_later_shares_from_then_on_and_does_not_catch_up(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            first = await made(store, *[SEARCHES] * 9)
            assert [claim.batch_id for claim in await store.claim(3)] == [first] * 3
            second = await made(store, *[SEARCHES] * 9)
            claimed = [claim.batch_id for _ in range(4) for claim in await store.claim(1)]
            assert claimed == [first, second, first, second]

    run(main())


def test_searches_and_covers_have_turns_of_their_own(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, jobs_at_once=1)
            covers = await made(store, *[COVERS] * 4)
            mixed = await made(store, *[SEARCHES] * 6, *[COVERS] * 4)
            claim, *searches = await store.claim(7)
            assert [one.batch_id for one in searches] == [mixed] * 6
            begun = [claim.batch_id]
            for _ in range(3):
                await store.create_job(claim, SPEC, None)
                await jobs.queue.succeed(await jobs.begin(), RESULT)
                (claim,) = await store.claim(1)
                begun.append(claim.batch_id)
            assert begun == [covers, mixed, covers, mixed]

    run(main())


def test_a_batch_with_nothing_to_run_gives_a_new_one_no_start(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            await made(store, COVERS, COVERS)  # has had no turn of a search, and wants none
            old = await made(store, *[SEARCHES] * 9)
            await store.claim(2 + 3)
            new = await made(store, *[SEARCHES] * 9)
            assert [claim.batch_id for _ in range(4) for claim in await store.claim(1)] == [old, new, old, new]

    run(main())


def test_a_key_that_is_revoked_ends_its_batches_and_no_other(opened: Opened, counted: Counted) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store, known = store_of(jobs), KeyStore(jobs.database)
            key, _ = await known.create("Acme", ["generate"], Allowance())
            closed, other = await made(store, COVERS, COVERS, caller=key.key), await made(store, COVERS)
            (claim,) = await store.claim(1)
            await store.create_job(claim, SPEC, None)
            await known.revoke(key.key)
            assert [one.batch_id for one in await store.claim(8)] == [other]
            await store.end_due()
            assert (await store.get(closed)).state == "cancelled"
            assert (await store.get(closed)).counts == {"skipped": 2}
            assert (await store.get(other)).state == "running"
            assert counted.of(JOBS_ENDED, "cancelled") == [1]

    run(main())


@pytest.mark.parametrize("webhooks", [True, False])
def test_a_line_reports_to_the_webhook_of_its_key_where_something_signs(opened: Opened, webhooks: bool) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = BatchStore(jobs.database, ServeSettings(), webhooks=webhooks)
            key, _ = await KeyStore(jobs.database).create("Acme", ["generate"], webhook=Webhook("https://key.test/"))
            await made(store, COVERS, caller=key.key)
            (claim,) = await store.claim(1)
            job_id = await store.create_job(claim, SPEC, None)
            await jobs.store.cancel(job_id)
            found = await Outbox(jobs.database, ServeSettings().webhooks).list_of(job_id)
            assert [one.receiver for one in found] == (["key.test:443"] if webhooks else [])

    run(main())


def test_a_caller_without_a_batch_may_send_one_however_many_others_wait(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, waiting_max=2)
            for _ in range(2):
                await made(store, SEARCHES, caller="greedy")
            with pytest.raises(Overloaded):
                await store.begin("greedy")
            await made(store, SEARCHES, caller="another")

    run(main())


def test_what_is_answered_or_cancelled_keeps_no_body(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            batch_id = await made(store, SEARCHES, COVERS, SEARCHES)
            searched, covers = await store.claim(2)
            await store.answer(searched, 200, {})
            await store.create_job(covers, SPEC, None)
            await store.cancel(batch_id)
            async with jobs.database.read() as connection:
                bodies = (await connection.scalars(sa.select(batch_lines.c.body))).all()
            assert bodies == [{}, {}, {}]

    run(main())


def test_lines_that_are_in_hand_count_among_the_jobs_under_way(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, jobs_at_once=2)
            await made(store, *[COVERS] * 4)
            assert [len(await store.claim(4)) for _ in range(2)] == [2, 0]

    run(main())


def test_runners_that_claim_at_once_share_the_lines_between_them(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            stores = [store_of(here), store_of(there)]
            await made(stores[0], *[SEARCHES] * 12)
            lines: list[int] = []
            while len(lines) < 12:
                found = await asyncio.gather(*(store.claim(2) for store in stores * 2))
                lines += [claim.line for some in found for claim in some]
            assert sorted(lines) == list(range(1, 13))

    run(main())


def test_a_line_whose_runner_is_lost_is_claimed_again_and_the_first_may_write_no_more(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            batch_id = await made(store, SEARCHES)
            (lost,) = await store.claim(1)
            assert await store.claim(1) == []
            async with jobs.database.write() as connection:
                await connection.execute(sa.update(batch_lines).values(lease_until=1.0))
            (again,) = await store.claim(1)
            with pytest.raises(LeaseLost):
                await store.answer(lost, 200, {})
            with pytest.raises(LeaseLost):
                await store.create_job(lost, SPEC, None)
            await store.answer(again, 200, {})
            assert (await store.get(batch_id)).counts == {"succeeded": 1}

    run(main())


def test_a_line_that_is_handed_back_waits_so_long(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            await made(store, SEARCHES)
            (claim,) = await store.claim(1)
            await store.hand_back(claim, 0.5)
            assert await store.claim(1) == []
            await asyncio.sleep(0.6)
            assert len(await store.claim(1)) == 1

    run(main())


def test_a_batch_that_is_cancelled_keeps_its_answers_and_runs_no_more(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, jobs_at_once=1)
            batch_id = await made(store, SEARCHES, COVERS, COVERS)
            search, cover = sorted(await store.claim(10), key=lambda claim: claim.line)
            await store.answer(search, 200, {})
            job_id = await store.create_job(cover, SPEC, None)
            await jobs.begin()
            batch = await store.cancel(batch_id)
            assert (batch.state, batch.counts) == ("cancelled", {"succeeded": 1, "skipped": 2})
            assert (await jobs.store.get(job_id)).state == "cancelled"
            assert [one.status for one in await answers(store, batch_id)] == [200, None, None]
            assert await store.claim(10) == []
            assert await store.cancel(batch_id) == batch
            with pytest.raises(LeaseLost):
                await store.answer(search, 200, {})

    run(main())


def test_a_batch_whose_time_is_over_ends_with_what_was_answered(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, window_s=0.1)
            batch_id = await made(store, SEARCHES, SEARCHES)
            (claim,) = await store.claim(1)
            await store.answer(claim, 200, {})
            await asyncio.sleep(0.15)
            await store.end_due()
            batch = await store.get(batch_id)
            assert (batch.state, batch.counts) == ("expired", {"succeeded": 1, "skipped": 1})

    run(main())


def test_jobs_are_kept_as_long_as_their_batch_and_both_are_deleted_in_time(opened: Opened) -> None:
    async def main() -> None:
        async with opened(results_kept_s=0.01) as jobs:
            store = store_of(jobs, results_kept_s=0.2)
            batch_id = await made(store, COVERS, SEARCHES)
            cover, search = await store.claim(10)
            job_id = await store.create_job(cover, SPEC, None)
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            await asyncio.sleep(0.05)
            assert await jobs.queue.expired(10) == []
            await store.answer(search, 200, {})
            await store.end_due()
            assert [one.status for one in await answers(store, batch_id)] == [200, 200]
            await asyncio.sleep(0.25)
            await store.end_due()
            with pytest.raises(NotFound, match="is deleted with its answers"):
                await store.get(batch_id)
            async with jobs.database.read() as connection:
                assert (await connection.execute(sa.select(batch_lines))).all() == []
            assert await jobs.queue.expired(10) == [job_id]

    run(main())


def test_a_batch_that_has_not_arrived_whole_is_not_there_and_is_deleted_later(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            lost, dropped = await store.begin("me"), await store.begin("me")
            await store.add(lost, [BatchLine(1, "a", SEARCHES, {})])
            with pytest.raises(NotFound):
                await store.get(lost)
            assert await store.claim(10) == []
            await store.drop(dropped)
            monkeypatch.setattr("serve.batches.conditions._ARRIVES_WITHIN_S", -1.0)
            await store.end_due()
            async with jobs.database.read() as connection:
                assert (await connection.execute(sa.select(batches))).all() == []

    run(main())


def test_no_more_batches_are_taken_than_may_wait(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, waiting_max=1)
            batch_id = await made(store, SEARCHES)
            with pytest.raises(Overloaded, match=r"serve\.batches\.waiting_max"):
                await store.begin("me")
            await store.cancel(batch_id)
            await store.begin("me")

    run(main())
