import asyncio

import pytest
import sqlalchemy as sa

from gatefold.config import ServeSettings
from gatefold.errors import IdempotencyConflict, NotFound
from serve.batches.lines import SEARCHES, BatchLine
from serve.batches.store import BatchStore
from serve.jobs.jobs import Idempotency
from serve.jobs.tables import batch_lines, batches
from tests.unit.serve.jobs.conftest import Jobs, Opened, run


def store_of(jobs: Jobs, results_kept_s: float = 60) -> BatchStore:
    return BatchStore(jobs.database, ServeSettings(results_kept_s=results_kept_s))


async def begun(store: BatchStore, caller: str = "me") -> str:
    """A batch of one line that has not arrived yet."""
    batch_id = await store.begin(caller)
    await store.add(batch_id, [BatchLine(1, "c1", SEARCHES, {})])
    return batch_id


def test_of_two_batches_that_arrive_at_once_under_one_key_one_runs_and_the_other_is_gone(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            stores = store_of(here), store_of(there)
            ids = [await begun(store) for store in stores]
            pairs = zip(stores, ids, strict=True)
            same = await asyncio.gather(*(store.arrived(one, Idempotency("k", "digest")) for store, one in pairs))
            assert same[0].batch_id == same[1].batch_id
            async with here.database.read() as connection:
                assert (await connection.scalars(sa.select(batches.c.batch_id))).all() == [same[0].batch_id]
                assert len((await connection.execute(sa.select(batch_lines))).all()) == 1

    run(main())


def test_a_key_of_a_batch_stands_for_its_lines_and_for_its_caller_alone(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs)
            first = await store.arrived(await begun(store), Idempotency("k", "digest"))
            with pytest.raises(IdempotencyConflict, match=f"'{first.batch_id}'"):
                await store.arrived(await begun(store), Idempotency("k", "another"))
            other = await store.arrived(await begun(store, "you"), Idempotency("k", "another"))
            assert {first.batch_id, other.batch_id} == {
                found.batch_id for caller in ("me", "you") if (found := await store.known(caller, "k")) is not None
            }

    run(main())


def test_a_key_of_a_batch_holds_for_a_day_however_short_results_are_kept(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            store = store_of(jobs, results_kept_s=0.001)
            named, unnamed = await store.arrived(await begun(store), Idempotency("k", "digest")), await begun(store)
            await store.arrived(unnamed)
            for batch_id in (named.batch_id, unnamed):
                await store.cancel(batch_id)
            await asyncio.sleep(0.01)
            await store.end_due()
            assert (await store.get(named.batch_id)).state == "cancelled"
            with pytest.raises(NotFound):
                await store.get(unnamed)
            async with jobs.database.write() as connection:
                await connection.execute(sa.update(batches).values(created_at=batches.c.created_at - 86_401))
            assert await store.known("me", "k") is None

    run(main())
