"""Waiting for jobs to change, wherever they are changed: one query of the database for all that wait in a process."""

import asyncio
import contextvars
import logging
from collections import defaultdict
from collections.abc import Coroutine

import sqlalchemy as sa

from gatefold.errors import Unavailable
from serve.claiming import set_within
from serve.jobs.database import Database, uninterrupted
from serve.jobs.rows import POSITION
from serve.jobs.tables import EVENTS_CHANNEL, jobs

logger = logging.getLogger(__name__)

Version = tuple[int, int | None]
"""number of a job's last event, and its position"""
_ASKED_AT_ONCE = 500  # jobs in one query
_LEAST_PAUSE_S = 0.1  # between two questions, however many events there are


class ChangeWatcher:
    """Polls while somebody waits, and only then; at once where the database notifies of an event.

    Args:
        poll_s: seconds between two questions.
    """

    def __init__(self, database: Database, poll_s: float) -> None:
        self._database = database
        self._poll_s = poll_s
        self._waiting: defaultdict[str, list[tuple[Version, asyncio.Future[None]]]] = defaultdict(list)
        self._polling: asyncio.Task[None] | None = None
        self._receiving: asyncio.Task[None] | None = None
        self._news = asyncio.Event()

    async def changed(self, job_id: str, seen: Version) -> None:
        """Returns when the job is no longer as it was seen, or no longer there."""
        waiter = (seen, asyncio.get_running_loop().create_future())
        self._waiting[job_id].append(waiter)
        self._news.set()  # it may have changed since it was seen
        if self._polling is None or self._polling.done():
            self._polling = _alone(self._poll())
        if self._receiving is None:
            self._receiving = _alone(self._database.receive(EVENTS_CHANNEL, lambda _: self._news.set()))
        try:
            await waiter[1]
        finally:
            self._forget(job_id, waiter)

    def close(self) -> None:
        """Stops polling; what still waits is cancelled."""
        for task in (self._polling, self._receiving):
            if task is not None:
                task.cancel()
        for waiters in self._waiting.values():
            for _, future in waiters:
                future.cancel()

    async def _poll(self) -> None:
        while self._waiting:
            await asyncio.sleep(min(_LEAST_PAUSE_S, self._poll_s))  # events that come together are one reason to ask
            await set_within(self._news, self._poll_s)
            self._news.clear()
            asked = list(self._waiting)
            try:
                now = await self._versions(asked)
            except Unavailable as error:  # they wait until it answers again
                logger.warning("changes of jobs cannot be read: %s", error)
                continue
            for job_id in asked:
                for seen, future in self._waiting.get(job_id, ()):
                    if now.get(job_id) != seen and not future.done():
                        future.set_result(None)

    @uninterrupted
    async def _versions(self, asked: list[str]) -> dict[str, Version]:
        found: dict[str, Version] = {}
        async with self._database.read() as connection:
            for start in range(0, len(asked), _ASKED_AT_ONCE):
                some = asked[start : start + _ASKED_AT_ONCE]
                query = sa.select(jobs.c.job_id, jobs.c.last_event, POSITION).where(jobs.c.job_id.in_(some))
                found |= {row.job_id: (row.last_event, row.position) for row in await connection.execute(query)}
        return found

    def _forget(self, job_id: str, waiter: tuple[Version, "asyncio.Future[None]"]) -> None:
        waiters = self._waiting[job_id]
        waiters.remove(waiter)
        if not waiters:
            del self._waiting[job_id]


def _alone(work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
    """A task in an empty context: Ray Serve cancels every task with the context of a request whose client has gone."""
    return contextvars.Context().run(asyncio.create_task, work)
