"""The audit: each call that needs the scope `admin` and each change of a key, with who, what, when and what came of it.

A call is written down before it is done, and its result after: what was done while a process ended has no result.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from serve.jobs.database import Database, uninterrupted
from serve.jobs.tables import audit

_TARGET_MAX, _CALLER_MAX, _ACTION_MAX, _RESULT_MAX = 1024, 128, 128, 64  # characters, as in the table


@dataclass(frozen=True)
class AuditEntry:
    """A call, or a change of a key."""

    number: int
    at: datetime
    caller: str
    """id of a caller, or who used the command line"""
    action: str
    target: str
    result: str | None
    """status of the answer, or `done`; None where the process ended before"""


class AuditLog:
    """The audit of one database, with its schema up to date."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @uninterrupted
    async def begin(self, caller: str, action: str, target: str) -> int:
        """Writes down that a caller is about to do this; the number of the entry. Raises: DatabaseUnavailable."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            return await add_entry(connection, now, caller, action, target, None)

    @uninterrupted
    async def finish(self, number: int, result: str) -> None:
        """What came of it. Raises: DatabaseUnavailable."""
        async with self._database.write() as connection:
            values = {"result": result[:_RESULT_MAX]}
            await connection.execute(sa.update(audit).where(audit.c.number == number).values(values))

    @uninterrupted
    async def read(self, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The last entries, the last first.

        Args:
            limit: at most so many.
            before: the number of an entry, to go on with those before it.
        """
        query = sa.select(audit).order_by(audit.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.number < before)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [
            AuditEntry(row.number, datetime.fromtimestamp(row.at, UTC), row.caller, row.action, row.target, row.result)
            for row in rows
        ]


async def add_entry(
    connection: AsyncConnection, now: float, caller: str, action: str, target: str, result: str | None
) -> int:
    """Writes an entry within a transaction; its number.

    Args:
        now: seconds since 1970.
    """
    row = {
        "at": now,
        "caller": caller[:_CALLER_MAX],
        "action": action[:_ACTION_MAX],
        "target": target[:_TARGET_MAX],
        "result": result,
    }
    number = await connection.scalar(sa.insert(audit).values(row).returning(audit.c.number))
    assert number is not None
    return int(number)
