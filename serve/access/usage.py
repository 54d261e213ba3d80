"""Usage of each caller and day (UTC): searches, covers, seconds of generation.

Covers and seconds are written with the end of their job, and are exact. Searches are counted in memory and written
every `FLUSH_EVERY_S`: a replica that is killed loses those since, and one whose transaction was confirmed to nobody
counts them twice. Knows no routes.
"""

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.errors import GatefoldError
from serve.jobs.database import Database, uninterrupted
from serve.jobs.tables import usage

logger = logging.getLogger(__name__)

FLUSH_EVERY_S = 5.0
"""seconds of searches that a replica which is killed has not written down"""


@dataclass(frozen=True)
class DayOfUsage:
    """What a caller used on one day."""

    caller: str
    day: date
    searches: int
    """songs searched for or embedded, successfully"""
    covers: int
    """new covers made; refused ones do not count"""
    generation_s: float
    """of jobs that ended, however they did"""


class UsageCounter:
    """Counts the searches of this process, and reads the usage of all."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._searches: Counter[tuple[str, date]] = Counter()  # that are not written yet

    def count_search(self, caller: str) -> None:
        """Counts one."""
        self._searches[caller, day_of(time.time())] += 1

    async def keep_flushing(self) -> None:
        """Never ends; what cannot be written now is written later."""
        while True:
            await asyncio.sleep(FLUSH_EVERY_S)
            try:
                await self.flush()
            except GatefoldError as error:
                logger.warning("searches cannot be written down now, and will be later: %s", error)
            except Exception:
                logger.exception("searches cannot be written down now, and will be later")

    async def flush(self) -> None:
        """Writes down what was counted. Raises: DatabaseUnavailable; it stays counted then."""
        taken, self._searches = self._searches, Counter()
        if not taken:
            return
        try:
            await self._write(taken)
        except Exception:
            self._searches.update(taken)
            raise

    @uninterrupted
    async def read(self, caller: str | None, first: date, last: date) -> list[DayOfUsage]:
        """Usage by day, the first first; of this caller, or of all.

        Args:
            first, last: days, both included.
        """
        query = sa.select(usage).where(usage.c.day.between(first, last)).order_by(usage.c.day, usage.c.caller)
        if caller is not None:
            query = query.where(usage.c.caller == caller)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [DayOfUsage(row.caller, row.day, row.searches, row.covers, row.generation_s) for row in rows]

    @uninterrupted
    async def _write(self, counted: Counter[tuple[str, date]]) -> None:
        async with self._database.write() as connection:
            for (caller, day), searches in sorted(counted.items()):  # in one order, or two processes could block
                await add_usage(connection, caller, day, searches=searches)


async def add_usage(
    connection: AsyncConnection, caller: str, day: date, *, searches: int = 0, covers: int = 0,
    generation_s: float = 0.0,
) -> None:  # fmt: skip
    """Adds to what a caller used on a day, within a transaction."""
    added = {"searches": searches, "covers": covers, "generation_s": generation_s}
    insert = (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(usage)
    sums = {name: usage.c[name] + value for name, value in added.items()}
    row = insert.values(caller=caller, day=day, **added)
    await connection.execute(row.on_conflict_do_update(index_elements=["caller", "day"], set_=sums))


async def covers_since(connection: AsyncConnection, caller: str, first: date) -> int:
    """New covers that a caller was given since this day, within a transaction."""
    query = sa.select(sa.func.coalesce(sa.func.sum(usage.c.covers), 0))
    return int(await connection.scalar(query.where(usage.c.caller == caller, usage.c.day >= first)) or 0)


def day_of(seconds: float) -> date:
    """The day in UTC of a moment, in seconds since 1970."""
    return datetime.fromtimestamp(seconds, UTC).date()


def month_of(seconds: float) -> tuple[date, float]:
    """The first day of a moment's month in UTC, and how many seconds are left of the month.

    Args:
        seconds: since 1970.
    """
    now = datetime.fromtimestamp(seconds, UTC)
    first = now.date().replace(day=1)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first, datetime(after.year, after.month, 1, tzinfo=UTC).timestamp() - seconds
