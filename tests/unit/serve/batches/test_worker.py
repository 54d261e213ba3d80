import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gatefold.config import ServeSettings
from gatefold.errors import DatabaseUnavailable, IndexNotReady
from gatefold.records import Match
from gatefold.workspace import Workspace
from serve.active_release import ActiveRelease
from serve.batches.lines import SEARCHES, BatchLine
from serve.batches.store import BatchStore, LineAnswer
from serve.batches.worker import BatchWorker
from serve.interfaces import Query, ReleaseServices, SongQuery
from serve.optout_filter import OptOuts
from tests.unit.serve.conftest import RELEASE, Encoder, Generator, Ready, Retriever
from tests.unit.serve.jobs.conftest import Jobs, Opened, run, soon

LIMITS = ServeSettings(jobs_poll_s=0.01)


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Of SQLite alone: what differs between databases, the tests of the store try."""
    return sqlite_url


@dataclass
class Faulty(Retriever):
    """Raises these, one after the other, before it searches; while `hold` is set it searches for ever."""

    faults: list[Exception] = field(default_factory=list)
    hold: bool = False

    async def search(self, query: Query | SongQuery) -> list[Match]:
        if self.faults:
            raise self.faults.pop(0)
        while self.hold:
            await asyncio.sleep(0.01)
        return await super().search(query)


@asynccontextmanager
async def working(jobs: Jobs, retriever: Faulty, folder: Path) -> AsyncIterator[BatchStore]:
    active = ActiveRelease(OptOuts(Workspace(folder.as_uri())))
    active.switch_to(ReleaseServices(RELEASE, Encoder(), retriever, Generator(), Ready()))
    store = BatchStore(jobs.database, LIMITS)
    worker = BatchWorker(active, store, LIMITS)
    worker.start()
    try:
        yield store
    finally:
        await worker.close()


async def made(store: BatchStore) -> str:
    batch_id = await store.begin("me")
    await store.add(batch_id, [BatchLine(1, "a", SEARCHES, {"song_id": "t1", "k": 1})])
    await store.arrived(batch_id)
    return batch_id


async def answered(store: BatchStore, batch_id: str) -> LineAnswer:
    async def ended() -> bool:
        return (await store.get(batch_id)).state == "completed"

    await soon(ended)
    (answer,) = [one async for some in store.answers(batch_id) for one in some]
    return answer


def test_a_line_that_cannot_be_answered_now_is_answered_later(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        retriever = Faulty(faults=[IndexNotReady("soon"), IndexNotReady("soon")])
        async with opened() as jobs, working(jobs, retriever, tmp_path) as store:
            answer = await answered(store, await made(store))
        assert (answer.status, len(answer.answer["matches"]), retriever.faults) == (200, 1, [])

    run(main())


def test_a_fault_of_ours_is_the_answer_without_its_details(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened() as jobs, working(jobs, Faulty(faults=[RuntimeError("10.0.0.7")]), tmp_path) as store:
            answer = await answered(store, await made(store))
        assert (answer.status, answer.answer["code"]) == (500, "internal_error")
        assert "10.0.0.7" not in str(answer)

    run(main())


def test_what_a_worker_has_in_hand_when_it_is_closed_goes_to_the_next_at_once(opened: Opened, tmp_path: Path) -> None:
    async def main() -> None:
        async with opened() as jobs:
            retriever = Faulty(hold=True)
            async with working(jobs, retriever, tmp_path) as store:
                batch_id = await made(store)
                await asyncio.sleep(0.1)
            retriever.hold = False
            async with working(jobs, retriever, tmp_path) as store:
                assert (await answered(store, batch_id)).status == 200

    run(main())


def test_an_answer_is_kept_while_the_database_is_away(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, failures = BatchStore.answer, iter([True, True])

    async def sometimes(self: BatchStore, *given: Any) -> None:
        if next(failures, False):
            raise DatabaseUnavailable("away")
        await answer(self, *given)

    async def main() -> None:
        retriever = Faulty()
        async with opened() as jobs, working(jobs, retriever, tmp_path) as store:
            assert (await answered(store, await made(store))).status == 200
        assert len(retriever.asked) == 1

    monkeypatch.setattr(BatchStore, "answer", sometimes)
    run(main())
