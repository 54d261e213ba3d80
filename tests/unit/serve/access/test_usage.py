import asyncio
import time
from datetime import UTC, date, datetime

import pytest

from gatefold.errors import DatabaseUnavailable
from serve.access.usage import DayOfUsage, UsageCounter, add_usage, covers_since, day_of, month_of
from serve.jobs.database import Database
from tests.unit.serve.access.conftest import Opened, run

DAY = date(2026, 2, 28)


async def add(database: Database, caller: str, day: date, **used: float) -> None:
    async with database.write() as connection:
        await add_usage(connection, caller, day, **used)  # type: ignore[arg-type]


def test_usage_adds_up_by_caller_and_day(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            later = date(2026, 3, 1)
            await asyncio.gather(
                add(here, "a", DAY, searches=2), add(there, "a", DAY, covers=4, generation_s=1.5),
                add(here, "a", later, covers=1), add(there, "b", DAY, searches=1),
            )  # fmt: skip
            usage = UsageCounter(here)
            assert await usage.read("a", DAY, later) == [
                DayOfUsage("a", DAY, 2, 4, 1.5), DayOfUsage("a", later, 0, 1, 0.0)
            ]  # fmt: skip
            assert [day.caller for day in await usage.read(None, DAY, DAY)] == ["a", "b"]
            async with here.read() as connection:
                assert [await covers_since(connection, "a", since) for since in (DAY, later)] == [5, 1]
                assert await covers_since(connection, "nobody", DAY) == 0

    run(main())


def test_searches_of_many_processes_are_written_once_each(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            counters = [UsageCounter(here), UsageCounter(there)]
            for counter in counters:
                for caller in ("b", "a", "b"):
                    counter.count_search(caller)
            await asyncio.gather(*(counter.flush() for counter in counters * 2))
            today = day_of(time.time())
            found = await counters[0].read(None, today, today)
            assert {day.caller: day.searches for day in found} == {"a": 2, "b": 4}

    run(main())


class AbsentCounter(UsageCounter):
    """Whose database is away at first."""

    away = True

    async def _write(self, counted: object) -> None:
        if self.away:
            raise DatabaseUnavailable("away")
        await super()._write(counted)  # type: ignore[arg-type]


def test_searches_that_cannot_be_written_are_written_later(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            counter = AbsentCounter(database)
            counter.count_search("a")
            with pytest.raises(DatabaseUnavailable):
                await counter.flush()
            counter.count_search("a")
            counter.away = False
            await counter.flush()
            await counter.flush()
            today = day_of(time.time())
            assert [day.searches for day in await counter.read("a", today, today)] == [2]

    run(main())


def test_a_month_ends_with_its_last_day_in_utc() -> None:
    for now, first, left_s in (
        (datetime(2026, 12, 31, 23, 59, tzinfo=UTC), date(2026, 12, 1), 60),
        (datetime(2028, 2, 1, tzinfo=UTC), date(2028, 2, 1), 29 * 86_400),
    ):
        assert month_of(now.timestamp()) == (first, left_s)
