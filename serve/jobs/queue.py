"""Jobs as a runner sees them: claimed for a while, renewed, begun, ended, handed back; and those that have expired.

Those of the highest priority are claimed first, and among these the callers take turns (serve.jobs.rows.next_turn).

A claim is a job's current `token` and a lease (`lease_until`). Of all runners only the holder of the current token may
write; one that lost it, because its lease ended and another claimed the job, or since the job was cancelled, learns
that by LeaseLost. A job whose runner is lost while it generates begins at most `serve.job_attempts_max` times.
"""

from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, LeaseLost, RunnerLost
from serve.jobs.database import Database, uninterrupted
from serve.jobs.jobs import Claim, JobResult, JobSpec
from serve.jobs.records import error_record, match_record, spec_record
from serve.jobs.rows import ORDER, UNFINISHED, change, end, read_jobs
from serve.jobs.store import end_values
from serve.jobs.tables import EVENTS_CHANNEL, deliveries, images, jobs
from serve.observability.metrics import JOB_FAILURES, JOB_WAIT, JOBS_ENDED


class JobQueue:
    """The queue of one database.

    Args:
        database: with its schema up to date.
        limits: `job_lease_s`, `job_attempts_max`, `results_kept_s`.
    """

    def __init__(self, database: Database, limits: ServeSettings) -> None:
        self._database = database
        self._limits = limits

    @uninterrupted
    async def claim(self, runner: str, count: int) -> list[Claim]:
        """At most so many queued jobs, those first that come first, leased to this runner."""
        async with self._database.read() as connection:  # most questions find nothing, and need not lock anything
            now = await self._database.now(connection)
            if not await connection.scalar(sa.select(jobs.c.number).where(_claimable(now) | _lost(now)).limit(1)):
                return []
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            failed = await self._recover_lost(connection, now)
            query = sa.select(jobs.c.number).where(_claimable(now)).order_by(*ORDER).limit(count)
            first = query.with_for_update(skip_locked=True).cte("first")  # which locks, so it is evaluated once
            lease = {"token": jobs.c.token + 1, "runner": runner, "lease_until": now + self._limits.job_lease_s}
            leased = sa.update(jobs).where(jobs.c.number.in_(sa.select(first.c.number))).values(lease)
            columns = (jobs.c.job_id, jobs.c.token, jobs.c.priority, jobs.c.turn, jobs.c.number)
            rows = (await connection.execute(leased.returning(*columns))).all()
            ids = [row.job_id for row in rows]
            found = {job.job_id: job for job in await read_jobs(connection, jobs.c.job_id.in_(ids))}
        for error in failed:
            _count_failed(error)
        rows = sorted(rows, key=lambda row: (-row.priority, row.turn, row.number))  # as ORDER has them
        return [Claim(found[row.job_id], row.token) for row in rows]

    @uninterrupted
    async def renew(self, claim: Claim) -> None:
        """Raises: LeaseLost."""
        async with self._database.write() as connection:
            until = await self._database.now(connection) + self._limits.job_lease_s
            renewed = sa.update(jobs).where(*_held(claim), UNFINISHED).values(lease_until=until)
            found = await connection.execute(renewed.returning(jobs.c.job_id))
            _must_hold(claim, found.one_or_none() is not None)

    @uninterrupted
    async def check(self, claim: Claim) -> None:
        """Nothing while the claim holds. Raises: LeaseLost."""
        async with self._database.read() as connection:
            held = await connection.scalar(sa.select(jobs.c.number).where(*_held(claim), UNFINISHED))
        _must_hold(claim, held is not None)

    @uninterrupted
    async def respecify(self, claim: Claim, spec: JobSpec) -> None:
        """The job is to be generated like this, by another release than it was accepted by. Raises: LeaseLost."""
        async with self._database.write() as connection:
            changed = sa.update(jobs).where(*_held(claim), jobs.c.state == "queued").values(spec=spec_record(spec))
            found = await connection.execute(changed.returning(jobs.c.job_id))
            _must_hold(claim, found.one_or_none() is not None)

    @uninterrupted
    async def begin(self, claim: Claim) -> None:
        """Its generation begins: it is running. Raises: LeaseLost."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            values = {
                jobs.c.state: "running",
                jobs.c.progress: 0.0,
                jobs.c.started_at: now,
                jobs.c.attempts: jobs.c.attempts + 1,
                jobs.c.lease_until: now + self._limits.job_lease_s,
            }
            _must_hold(claim, await change(connection, now, values, *_held(claim), jobs.c.state == "queued"))
        JOB_WAIT.observe(now - claim.job.created_at.timestamp())

    @uninterrupted
    async def advance(self, claim: Claim, progress: float) -> None:
        """So much of its work is done; renews the lease. Raises: LeaseLost."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            values = {jobs.c.progress: progress, jobs.c.lease_until: now + self._limits.job_lease_s}
            _must_hold(claim, await change(connection, now, values, *_held(claim), jobs.c.state == "running"))

    @uninterrupted
    async def succeed(self, claim: Claim, result: JobResult) -> None:
        """Its pictures lie in the store. Raises: LeaseLost."""
        record = {"folder": result.folder, "matches": [match_record(match) for match in result.matches]}
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            values: dict[object, object] = {jobs.c.result: record, jobs.c.progress: 1.0}
            values |= end_values("succeeded", now, self._limits.results_kept_s)
            made = sum(not cover.is_refused for cover in result.covers)
            holds = sa.select(jobs.c.number).where(*_held(claim), UNFINISHED).with_for_update()
            _must_hold(claim, await connection.scalar(holds) is not None)
            for place, cover in enumerate(result.covers):
                closest = None if cover.closest is None else match_record(cover.closest)
                row = {"job_id": claim.job.job_id, "place": place, "record": cover.record, "closest": closest}
                await connection.execute(sa.insert(images).values(row))
            await self._end(connection, claim, now, values, covers=made)
        JOBS_ENDED.add(state="succeeded")

    @uninterrupted
    async def fail(self, claim: Claim, error: GatefoldError) -> None:
        """Raises: LeaseLost."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            failed = end_values("failed", now, self._limits.results_kept_s)
            await self._end(connection, claim, now, failed | {jobs.c.error: error_record(error)})
        _count_failed(error)

    @uninterrupted
    async def hand_back(self, claim: Claim, *, after_s: float = 0.0, counts: bool = False) -> None:
        """Queued again, for any runner; nothing where the claim was lost.

        Args:
            after_s: seconds before which nobody claims it.
            counts: whether its generation counts as an attempt.
        """
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            free = {jobs.c.lease_until: now + after_s if after_s else None, jobs.c.runner: None}
            begun = _queued_again() | free
            if not counts:
                begun[jobs.c.attempts] = jobs.c.attempts - 1
            if not await change(connection, now, begun, *_held(claim), jobs.c.state == "running"):
                await connection.execute(sa.update(jobs).where(*_held(claim), UNFINISHED).values(free))

    @uninterrupted
    async def attempts_left(self, claim: Claim) -> int:
        """Times that it may begin again."""
        async with self._database.read() as connection:
            begun = await connection.scalar(sa.select(jobs.c.attempts).where(jobs.c.job_id == claim.job.job_id))
        return max(0, self._limits.job_attempts_max - (begun or 0))

    @uninterrupted
    async def cancel_overdue(self) -> list[str]:
        """Cancels the jobs that have not ended in the time that their caller gave them; their job_ids."""
        async with self._database.read() as connection:
            now = await self._database.now(connection)
            if not await connection.scalar(sa.select(jobs.c.number).where(_overdue(now)).limit(1)):
                return []
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            query = sa.select(jobs.c.job_id).where(_overdue(now)).order_by(jobs.c.caller, jobs.c.number)
            query = query.with_for_update(skip_locked=True)  # in the order that usage is locked in everywhere
            ids = list((await connection.scalars(query)).all())
            await end(connection, now, end_values("cancelled", now, self._limits.results_kept_s), ids)
        for _ in ids:
            JOBS_ENDED.add(state="cancelled")
        return ids

    @uninterrupted
    async def unfinished(self) -> tuple[dict[tuple[str, str], int], float]:
        """Jobs by state, queued or running, and by queue, single or batch; and for how many seconds the oldest single
        one has been queued. Those of batches wait for all others."""
        queue = sa.case((jobs.c.batch_id.is_(None), "single"), else_="batch")
        counted = sa.select(jobs.c.state, queue, sa.func.count(), sa.func.min(jobs.c.created_at)).where(UNFINISHED)
        async with self._database.read() as connection:
            now = await self._database.now(connection)
            rows = (await connection.execute(counted.group_by(jobs.c.state, queue))).all()
        counts = {(state, queue): 0 for state in ("queued", "running") for queue in ("single", "batch")}
        since = {(state, queue): oldest for state, queue, _, oldest in rows}
        counts |= {(state, queue): count for state, queue, count, _ in rows}
        return counts, max(0.0, now - since.get(("queued", "single"), now))

    async def receive_queued(self, on_queued: Callable[[], None]) -> None:
        """Calls `on_queued` as soon as a job is queued, or may have been; returns where nothing is notified."""

        def on_event(state: str) -> None:
            if state in ("", "queued"):
                on_queued()

        await self._database.receive(EVENTS_CHANNEL, on_event)

    @uninterrupted
    async def expired(self, limit: int) -> list[str]:
        """job_ids whose results are due to be deleted, at most so many."""
        async with self._database.read() as connection:
            now = await self._database.now(connection)
            due = jobs.c.expires_at < now, jobs.c.batch_id.is_(None)
            query = sa.select(jobs.c.job_id).where(*due).order_by(jobs.c.expires_at).limit(limit)
            return list((await connection.scalars(query)).all())

    @uninterrupted
    async def forget(self, job_ids: Sequence[str]) -> None:
        """Deletes ended jobs, with their events, images and deliveries; one that is due yet stays until it is done."""
        async with self._database.write() as connection:
            done = deliveries.c.job_id.in_(job_ids), deliveries.c.state != "pending"
            await connection.execute(sa.delete(deliveries).where(*done))
            await connection.execute(sa.delete(jobs).where(jobs.c.job_id.in_(job_ids), ~UNFINISHED))

    @uninterrupted
    async def known(self, job_ids: Sequence[str]) -> set[str]:
        """Those of these ids that are of a job."""
        async with self._database.read() as connection:
            query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids))
            return set((await connection.scalars(query)).all())

    async def _end(
        self, connection: AsyncConnection, claim: Claim, now: float, values: dict[object, object], covers: int = 0
    ) -> None:
        _must_hold(claim, await change(connection, now, values, *_held(claim), UNFINISHED, covers=covers))

    async def _recover_lost(self, connection: AsyncConnection, now: float) -> list[GatefoldError]:
        """Queues again what its runner began and left, or fails it where that happened too often; why those failed."""
        failed: list[GatefoldError] = []
        query = sa.select(jobs.c.job_id, jobs.c.attempts).where(_lost(now)).order_by(jobs.c.caller)
        for row in (await connection.execute(query.with_for_update(skip_locked=True))).all():
            if row.attempts < self._limits.job_attempts_max:
                values = _queued_again() | {jobs.c.lease_until: None, jobs.c.runner: None}
            else:
                error = RunnerLost(
                    f"what ran this job was lost {row.attempts} times while it generated, and it is not tried again "
                    f"(serve.job_attempts_max = {self._limits.job_attempts_max})"
                )
                values = end_values("failed", now, self._limits.results_kept_s) | {jobs.c.error: error_record(error)}
                failed.append(error)
            await change(connection, now, values, jobs.c.job_id == row.job_id, _lost(now))
        return failed


def _count_failed(error: GatefoldError) -> None:
    JOBS_ENDED.add(state="failed")
    JOB_FAILURES.add(code=error.code)


def _claimable(now: float) -> sa.ColumnElement[bool]:
    in_time = jobs.c.cancel_at.is_(None) | (jobs.c.cancel_at > now)
    return (jobs.c.state == "queued") & (jobs.c.lease_until.is_(None) | (jobs.c.lease_until < now)) & in_time


def _overdue(now: float) -> sa.ColumnElement[bool]:
    return (jobs.c.cancel_at <= now) & UNFINISHED


def _lost(now: float) -> sa.ColumnElement[bool]:
    return (jobs.c.state == "running") & (jobs.c.lease_until < now)


def _held(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return jobs.c.job_id == claim.job.job_id, jobs.c.token == claim.token


def _queued_again() -> dict[object, object]:
    return {jobs.c.state: "queued", jobs.c.progress: 0.0, jobs.c.started_at: None}


def _must_hold(claim: Claim, held: bool) -> None:
    if not held:
        raise LeaseLost(f"job '{claim.job.job_id}' was cancelled, or another runner has it by now")


