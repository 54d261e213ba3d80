"""Batches as the API and what runs them see them: stored as they arrive, claimed line by line, ended, read as files.

A line becomes a job of low priority, or is answered by the runner that claimed it. What a line of a job answers is
written nowhere again: it is read from the job, which is kept as long as its batch. Claims are leases with tokens, as of
jobs: a line whose runner was lost is claimed again.
"""

import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.config import ServeSettings
from gatefold.errors import LeaseLost, NotFound, Overloaded
from serve.access.usage import add_usage, day_of
from serve.batches.conditions import (
    ARRIVING,
    OUTCOME,
    RUNNING,
    TURN,
    completed,
    first_waiting,
    gone,
    of_closed_key,
    overdue,
    waiting,
)
from serve.batches.idempotency import KnownBatch, find
from serve.batches.lines import COVERS, SEARCHES, BatchLine
from serve.jobs.database import Database, uninterrupted
from serve.jobs.jobs import Idempotency, Job, JobSpec, Webhook
from serve.jobs.rows import UNFINISHED, end, insert_job, read_jobs
from serve.jobs.store import (
    RETRY_AFTER_MAX_S,
    check_covers,
    end_values,
    expiry,
    new_job_id,
    webhook_of_job,
)
from serve.jobs.tables import batch_lines, batches, jobs, keys
from serve.observability.metrics import JOBS_ENDED

BatchState = Literal["running", "completed", "cancelled", "expired"]
PRIORITY = -1
"""of the jobs of batches: all others go first"""
_LEASE_S = 60.0
_PAGE = 200  # lines read at a time


@dataclass(frozen=True)
class Batch:
    """A batch at one moment."""

    batch_id: str
    caller: str
    state: BatchState
    lines: int
    created_at: float
    """seconds since 1970, as all times here"""
    ends_at: float
    """when it expires if it is not completed"""
    finished_at: float | None
    expires_at: float | None
    """once it has ended: when it is deleted with its jobs"""
    counts: dict[str, int]
    """lines by outcome: waiting, running, succeeded, failed, skipped"""


@dataclass(frozen=True)
class LineClaim:
    """The right to run a line."""

    batch: int
    batch_id: str
    caller: str
    line: int
    token: int
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class LineAnswer:
    """What a line is answered with."""

    line: int
    custom_id: str
    status: int | None = None
    """of HTTP; None where it was not run"""
    answer: Any = None
    """the body, where there is no job"""
    job: Job | None = None
    """which has ended"""


class BatchStore:
    """The batches of one database.

    Args:
        database: with its schema up to date.
        limits: `batches`, `results_kept_s`.
        webhooks: whether something signs and delivers them.
    """

    def __init__(self, database: Database, limits: ServeSettings, *, webhooks: bool = True) -> None:
        self._database = database
        self._limits = limits
        self._webhooks = webhooks

    @uninterrupted
    async def begin(self, caller: str) -> str:
        """A batch that arrives; its batch_id. Raises: Overloaded."""
        batch_id, most = secrets.token_hex(16), self._limits.batches.waiting_max
        async with self._database.write() as connection:
            await self._database.lock(connection)
            now = await self._database.now(connection)
            there = sa.select(sa.func.count()).select_from(batches).where(batches.c.state.in_((ARRIVING, RUNNING)))
            count = await connection.scalar(there) or 0
            own = await connection.scalar(there.where(batches.c.caller == caller)) or 0
            if count >= most and own:  # who has none may add one: no other caller can keep it out
                raise Overloaded(
                    f"{count} batches are under way, at most {most} (serve.batches.waiting_max); try again later",
                    RETRY_AFTER_MAX_S,
                )
            row = {"batch_id": batch_id, "caller": caller, "state": ARRIVING, "created_at": now}
            ends_at = now + self._limits.batches.window_s
            await connection.execute(sa.insert(batches).values(**row, ends_at=ends_at))
        return batch_id

    @uninterrupted
    async def add(self, batch_id: str, lines: Sequence[BatchLine]) -> None:
        """Some of its lines."""
        async with self._database.write() as connection:
            number = await connection.scalar(sa.select(batches.c.number).where(batches.c.batch_id == batch_id))
            rows = [
                {"batch": number, "line": one.number, "custom_id": one.custom_id, "url": one.url, "body": one.body}
                for one in lines
            ]
            await connection.execute(sa.insert(batch_lines), rows)
            more = sa.update(batches).where(batches.c.number == number)
            await connection.execute(more.values(lines=batches.c.lines + len(rows)))

    @uninterrupted
    async def known(self, caller: str, key: str) -> KnownBatch | None:
        """The batch that this key of the caller stands for, if there is one."""
        async with self._database.read() as connection:
            return await find(connection, await self._database.now(connection), caller, key)

    @uninterrupted
    async def arrived(self, batch_id: str, idempotency: Idempotency | None = None) -> Batch:
        """All of it is here: it runs. Or, where another with the same key came first, that one; then this is deleted.

        Raises: IdempotencyConflict.
        """
        async with self._database.write() as connection:
            await self._database.lock(connection)  # turns are counted, and keys looked for, one by one
            now = await self._database.now(connection)
            named = {}
            if idempotency is not None:
                named = {"idempotency_key": idempotency.key, "idempotency_digest": idempotency.digest}
                of_batch = batches.c.batch_id == batch_id
                caller = await connection.scalar(sa.select(batches.c.caller).where(of_batch))
                if (known := await find(connection, now, str(caller), idempotency.key)) is not None:
                    known.check(idempotency.digest)
                    await connection.execute(sa.delete(batches).where(of_batch))
                    return await self._get(connection, known.batch_id)
            turns = {turn.name: await self._turn_now(connection, now, url) for url, turn in TURN.items()}
            whole = sa.update(batches).where(batches.c.batch_id == batch_id, batches.c.state == ARRIVING)
            await connection.execute(whole.values(state=RUNNING, **turns, **named))
            return await self._get(connection, batch_id)

    @uninterrupted
    async def drop(self, batch_id: str) -> None:
        """Deletes a batch that did not arrive whole."""
        async with self._database.write() as connection:
            of_batch = batches.c.batch_id == batch_id, batches.c.state == ARRIVING
            await connection.execute(sa.delete(batches).where(*of_batch))

    @uninterrupted
    async def get(self, batch_id: str, owner: str | None = None) -> Batch:
        """The batch of any caller, or only where it is this one's. Raises: NotFound."""
        async with self._database.read() as connection:
            return await self._get(connection, batch_id, owner)

    @uninterrupted
    async def cancel(self, batch_id: str) -> Batch:
        """The batch, ended if it had not; its answers stay. Raises: NotFound."""
        async with self._database.write() as connection:
            cancelled = await self._end(connection, "cancelled", batches.c.batch_id == batch_id)
            batch = await self._get(connection, batch_id)
        _count_cancelled(cancelled)
        return batch

    async def answers(self, batch_id: str) -> AsyncIterator[list[LineAnswer]]:
        """All lines that have been answered, and of a batch that has ended all that never will be, in order, some at a
        time."""
        after = 0
        while page := await self._page(batch_id, after):
            after = page[-1][0]
            yield [answer for _, answer in page if answer is not None]

    @uninterrupted
    async def claim(self, count: int) -> list[LineClaim]:
        """Lines that wait, at most so many; those of new covers only as far as few of their jobs are under way."""
        async with self._database.read() as connection:  # most questions find nothing, and need not lock anything
            now = await self._database.now(connection)
            waits = sa.exists().where(batch_lines.c.batch == batches.c.number, waiting(now))
            running = sa.select(batches.c.number).where(batches.c.state == RUNNING, waits)
            if not await connection.scalar(running.limit(1)):
                return []
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            await self._database.lock(connection)  # those who count jobs go one by one
            begun = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.batch_id.is_not(None), UNFINISHED)
            in_hand = sa.select(sa.func.count()).select_from(batch_lines).join(batches).where(
                batches.c.state == RUNNING, batch_lines.c.state == "waiting", batch_lines.c.url == COVERS,
                batch_lines.c.lease_until > now,
            )  # fmt: skip
            under_way = (await connection.scalar(begun) or 0) + (await connection.scalar(in_hand) or 0)
            room = self._limits.batches.jobs_at_once - under_way
            claims = [claim async for claim in self._claim_each(connection, now, COVERS, min(count, room))]
            claims += [claim async for claim in self._claim_each(connection, now, SEARCHES, count - len(claims))]
        return claims

    async def _claim_each(
        self, connection: AsyncConnection, now: float, url: str, count: int
    ) -> AsyncIterator[LineClaim]:
        """One line after the other, each the first of the batch that has had the fewest turns."""
        turn, first = TURN[url], first_waiting(url, now)
        columns = batches.c.number, batches.c.batch_id, batches.c.caller, first.label("line")
        waits = batches.c.state == RUNNING, ~of_closed_key(now), first.is_not(None)
        query = sa.select(*columns).where(*waits).order_by(turn, batches.c.number).limit(1)
        query = query.with_for_update(of=batches, skip_locked=True)  # one that ends just now has no more turns
        for _ in range(count):
            found = (await connection.execute(query)).one_or_none()
            if found is None:
                return
            line = batch_lines.c.batch == found.number, batch_lines.c.line == found.line, waiting(now)
            leased = sa.update(batch_lines).where(*line)
            leased = leased.values(token=batch_lines.c.token + 1, lease_until=now + _LEASE_S)
            taken = (await connection.execute(leased.returning(batch_lines.c.token, batch_lines.c.body))).one_or_none()
            counted = sa.update(batches).where(batches.c.number == found.number).values({turn: turn + 1})
            await connection.execute(counted)
            if taken is not None:  # else who had it before has answered it in this moment
                place = found.number, found.batch_id, found.caller, found.line
                yield LineClaim(*place, taken.token, url, taken.body)

    async def _turn_now(self, connection: AsyncConnection, now: float, url: str) -> int:
        """The turn of the batch that is next; so a new one shares from now on, and does not catch up with others."""
        turn, running = TURN[url], (batches.c.state == RUNNING, ~of_closed_key(now))
        following = sa.select(sa.func.min(turn)).where(*running, first_waiting(url, now).is_not(None))
        latest = sa.select(sa.func.max(turn)).where(*running)
        found = sa.func.coalesce(following.scalar_subquery(), latest.scalar_subquery(), 0)
        return int((await connection.scalars(sa.select(found))).one())

    @uninterrupted
    async def create_job(self, claim: LineClaim, spec: JobSpec, webhook: Webhook | None) -> str:
        """The line becomes a job; its job_id. Raises: LeaseLost once the batch has ended, or another has the line;
        QuotaExceeded where its caller's key may have no more covers this month."""
        job_id = new_job_id()
        async with self._database.write() as connection:
            await self._database.lock(connection)  # as jobs that are accepted by themselves: covers are counted
            now = await self._database.now(connection)
            most = await connection.scalar(sa.select(keys.c.covers_per_month).where(keys.c.key == claim.caller))
            if most is not None:
                await check_covers(connection, now, claim.caller, spec.n, most)
            await self._write(connection, claim, {"state": "job", "job_id": job_id})
            owner = claim.caller, PRIORITY, webhook_of_job(webhook, claim.caller, webhooks=self._webhooks)
            await insert_job(connection, now, job_id, spec, *owner, batch_id=claim.batch_id)
        return job_id

    @uninterrupted
    async def answer(self, claim: LineClaim, status: int, answer: object) -> None:
        """The line has been answered without a job. Raises: LeaseLost."""
        async with self._database.write() as connection:
            await self._write(connection, claim, {"state": "answered", "status": status, "answer": answer})
            if claim.url == SEARCHES and status < 400:
                day = day_of(await self._database.now(connection))
                await add_usage(connection, claim.caller, day, searches=1)

    @uninterrupted
    async def hand_back(self, claim: LineClaim, after_s: float) -> None:
        """The line waits again; nothing where the claim was lost.

        Args:
            after_s: seconds before which nobody claims it.
        """
        async with self._database.write() as connection:
            until = await self._database.now(connection) + after_s
            await connection.execute(sa.update(batch_lines).where(*_held(claim)).values(lease_until=until))

    @uninterrupted
    async def end_due(self) -> None:
        """Ends the batches that are completed or whose time is over; deletes those that expired, or never arrived."""
        async with self._database.read() as connection:
            now = await self._database.now(connection)
            due = completed(), overdue(now), of_closed_key(now), gone(now)
            if not await connection.scalar(sa.select(batches.c.number).where(sa.or_(*due)).limit(1)):
                return
        cancelled = 0
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            cancelled += await self._end(connection, "completed", completed())
            cancelled += await self._end(connection, "expired", overdue(now))
            cancelled += await self._end(connection, "cancelled", of_closed_key(now))
            old = sa.select(batches.c.batch_id).where(gone(now)).scalar_subquery()
            freed = sa.update(jobs).where(jobs.c.batch_id.in_(old)).values(batch_id=None)
            await connection.execute(freed)  # which the sweeper deletes when their own time is over
            await connection.execute(sa.delete(batches).where(gone(now)))
        _count_cancelled(cancelled)

    async def _end(self, connection: AsyncConnection, state: BatchState, *where: sa.ColumnElement[bool]) -> int:
        """Ends these batches; how many of their jobs were cancelled."""
        now = await self._database.now(connection)
        times = {"finished_at": now, "expires_at": expiry(batches, now, self._limits.results_kept_s)}
        ended = sa.update(batches).where(batches.c.state == RUNNING, *where).values(state=state, **times)
        columns = batches.c.number, batches.c.batch_id, batches.c.caller
        rows = (await connection.execute(ended.returning(*columns))).all()
        cancelled = 0
        for row in sorted(rows, key=lambda row: str(row.caller)):  # usage is locked in this order everywhere
            left = sa.update(batch_lines).where(batch_lines.c.batch == row.number, batch_lines.c.state == "waiting")
            await connection.execute(left.values(state="skipped", body={}))
            unfinished = sa.select(jobs.c.job_id).where(jobs.c.batch_id == row.batch_id, UNFINISHED)
            ids = (await connection.scalars(unfinished.with_for_update())).all()
            await end(connection, now, end_values("cancelled", now, self._limits.results_kept_s), ids)
            cancelled += len(ids)
        return cancelled

    async def _write(self, connection: AsyncConnection, claim: LineClaim, values: dict[str, Any]) -> None:
        line = sa.update(batch_lines).where(*_held(claim), batch_lines.c.state == "waiting")
        found = await connection.execute(line.values(lease_until=None, body={}, **values).returning(batch_lines.c.line))
        if found.one_or_none() is None:
            raise LeaseLost(f"batch '{claim.batch_id}' has ended, or another runner has its line {claim.line}")

    async def _get(self, connection: AsyncConnection, batch_id: str, owner: str | None = None) -> Batch:
        of_id = batches.c.batch_id == batch_id, batches.c.state != ARRIVING
        row = (await connection.execute(sa.select(batches).where(*of_id))).one_or_none()
        if row is None or owner not in (None, row.caller):
            raise NotFound(
                f"batch '{batch_id[:64]}' is not known; a batch is deleted with its answers "
                f"{self._limits.results_kept_s:g} s after it ended (serve.results_kept_s)"
            )
        lines = batch_lines.outerjoin(jobs, jobs.c.job_id == batch_lines.c.job_id)
        query = sa.select(OUTCOME, sa.func.count()).select_from(lines).where(batch_lines.c.batch == row.number)
        counts = {str(name): int(count) for name, count in await connection.execute(query.group_by(OUTCOME))}
        times = row.created_at, row.ends_at, row.finished_at, row.expires_at
        return Batch(row.batch_id, row.caller, row.state, row.lines, *times, counts)

    @uninterrupted
    async def _page(self, batch_id: str, after: int) -> list[tuple[int, LineAnswer | None]]:
        """The lines that follow this one, each with its answer if there is one."""
        async with self._database.read() as connection:
            query = sa.select(batch_lines).join(batches).where(batches.c.batch_id == batch_id)
            query = query.where(batch_lines.c.line > after).order_by(batch_lines.c.line).limit(_PAGE)
            rows = (await connection.execute(query)).all()
            ids = [row.job_id for row in rows if row.job_id is not None]
            of_lines = {job.job_id: job for job in await read_jobs(connection, jobs.c.job_id.in_(ids))}
        return [(row.line, _answer(row, of_lines.get(row.job_id))) for row in rows]


def _held(claim: LineClaim) -> tuple[sa.ColumnElement[bool], ...]:
    line = batch_lines.c.batch == claim.batch, batch_lines.c.line == claim.line
    return (*line, batch_lines.c.token == claim.token)


def _count_cancelled(jobs_cancelled: int) -> None:
    if jobs_cancelled:
        JOBS_ENDED.add(jobs_cancelled, state="cancelled")


def _answer(row: Any, job: Job | None) -> LineAnswer | None:
    if row.status is not None:
        return LineAnswer(row.line, row.custom_id, row.status, row.answer)
    if job is not None and job.state in ("succeeded", "failed"):
        status = 200 if job.error is None else job.error.status
        return LineAnswer(row.line, row.custom_id, status, job=job)
    if row.state == "skipped" or (job is not None and job.ended):
        return LineAnswer(row.line, row.custom_id)
    return None
