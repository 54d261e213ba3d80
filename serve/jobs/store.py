"""Jobs as the API sees them: accepted, found, listed, followed, cancelled. All of it is in the database, so any replica
answers for any job, and a restart loses none. `serve.jobs.runner` runs them."""

import asyncio
import math
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from math import ceil
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.config import ServeSettings
from gatefold.errors import IdempotencyConflict, InputError, Overloaded, QuotaExceeded, TooManyJobs, UnknownJob
from serve.access.callers import UNLIMITED, Allowance
from serve.access.usage import covers_since, month_of
from serve.jobs.database import Database, uninterrupted
from serve.jobs.jobs import Idempotency, Job, JobSpec, State, Webhook
from serve.jobs.records import webhook_columns
from serve.jobs.rows import OPEN, UNFINISHED, at_event, change, insert_job, read_jobs, time_of
from serve.jobs.tables import events, jobs, keys
from serve.jobs.watching import ChangeWatcher
from serve.observability.metrics import JOBS_ENDED

RETRY_AFTER_S = 5
"""seconds that a job is taken to last before any has ended"""
RETRY_AFTER_MAX_S = 3_600
"""seconds that are named at most; a longer estimate would be unreliable"""
_MEASURED = 20  # of the last jobs
IDEMPOTENCY_KEPT_S = 86_400
"""seconds that a caller's key stands for its request"""


_OPEN_JOBS = sa.select(sa.func.count()).select_from(jobs).where(
    OPEN & jobs.c.batch_id.is_(None)  # a batch has few under way at a time, and waits itself
)
_OWN_OPEN_JOBS = _OPEN_JOBS.where(jobs.c.caller == sa.bindparam("own"))
_TOOK = (
    sa.select((jobs.c.finished_at - jobs.c.started_at).label("took"))
    .where(jobs.c.state == "succeeded")
    .order_by(jobs.c.finished_at.desc())
    .limit(_MEASURED)
    .subquery()
)
_PACE = sa.select(
    sa.func.avg(_TOOK.c.took),
    sa.select(sa.func.count()).select_from(jobs).where(jobs.c.state == "running").scalar_subquery(),
)


class Accepted(NamedTuple):
    """A job that a request was answered with.

    Args:
        new: False where an earlier request with the same key and content has made it.
        ends_in_s: seconds until it will have ended, estimated from its position and the last jobs.
    """

    job: Job
    new: bool
    ends_in_s: int


def new_job_id() -> str:
    """An id that nobody can guess."""
    return secrets.token_hex(16)


class JobStore:
    """The jobs of one database.

    Args:
        database: with its schema up to date.
        limits: `jobs_max`, `results_kept_s`, `jobs_poll_s`.
        webhooks: whether something signs and delivers them.
    """

    def __init__(self, database: Database, limits: ServeSettings, *, webhooks: bool = True) -> None:
        self._database = database
        self._limits = limits
        self._webhooks = webhooks
        self._watcher = ChangeWatcher(database, limits.jobs_poll_s)

    @uninterrupted
    async def admit(
        self, caller: str, idempotency: Idempotency | None, covers: int = 0, allowed: Allowance = UNLIMITED
    ) -> Accepted | None:
        """The job made with this key; None where there is none yet, and one more job would be taken.

        Args:
            covers: that the job would make.
            allowed: what the caller may have.

        Raises: Overloaded, TooManyJobs, QuotaExceeded, InputError; IdempotencyConflict if the key was used for
        another request.
        """
        async with self._database.read() as connection:
            if idempotency is not None and (known := await self._find(connection, caller, idempotency)) is not None:
                return Accepted(known, False, await _ends_in_s(connection, known))
            await self._admit(connection, caller, covers, allowed)
        return None

    @uninterrupted
    async def create(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        caller: str,
        allowed: Allowance = UNLIMITED,
        idempotency: Idempotency | None = None,
        priority: int = 0,
        webhook: Webhook | None = None,
        cancel_after_s: float | None = None,
    ) -> Accepted:
        """A queued job; the same key and request give the same one.

        Args:
            job_id: of `new_job_id`; what the job needs of the store lies there already.
            allowed: what the caller may have.
            priority: a larger one goes first.
            webhook: to which its end is reported; that of the caller's key when None.
            cancel_after_s: seconds after which it is cancelled if it has not ended; never when None.

        Raises: Overloaded, TooManyJobs, QuotaExceeded, InputError; IdempotencyConflict; DatabaseUnavailable.
        """
        async with self._database.write() as connection:
            await self._database.lock(connection)  # those who count, and those who look for a key, go one by one
            if idempotency is not None and (known := await self._find(connection, caller, idempotency)) is not None:
                return Accepted(known, False, await _ends_in_s(connection, known))
            await self._admit(connection, caller, spec.n, allowed)
            now = await self._database.now(connection)
            cancel_at = None if cancel_after_s is None else now + cancel_after_s
            key = idempotency.key if idempotency else None
            if key is not None:  # one older than IDEMPOTENCY_KEPT_S may be reused
                old = sa.update(jobs).where(jobs.c.caller == caller, jobs.c.idempotency_key == key)
                await connection.execute(old.values(idempotency_key=None, idempotency_digest=None))
            named: dict[str, Any] = {"cancel_at": cancel_at}
            if idempotency is not None:
                named |= {"idempotency_key": key, "idempotency_digest": idempotency.digest}
            reported = webhook_of_job(webhook, caller, webhooks=self._webhooks)
            position = await insert_job(connection, now, job_id, spec, caller, priority, reported, **named)
            ends = None if cancel_at is None else time_of(cancel_at)
            job = Job(job_id, caller, spec, time_of(now), position=position, webhook=webhook, cancel_at=ends)
            return Accepted(job, True, await _ends_in_s(connection, job))

    @uninterrupted
    async def get(self, job_id: str, owner: str | None = None) -> Job:
        """The job of any caller, or only where it is this one's. Raises: UnknownJob."""
        async with self._database.read() as connection:
            return await self._get(connection, job_id, owner)

    @uninterrupted
    async def list_of(self, caller: str, *, state: State | None, limit: int, after: str | None) -> list[Job]:
        """A caller's own jobs, the last accepted first.

        Args:
            state: that they are in; any when None.
            limit: at most so many.
            after: the job_id after which to go on; from the first when None.

        Raises: UnknownJob where `after` is none of theirs.
        """
        where = [jobs.c.caller == caller]
        if state is not None:
            where.append(jobs.c.state == state)
        async with self._database.read() as connection:
            if after is not None:
                of_after = sa.select(jobs.c.number).where(jobs.c.caller == caller, jobs.c.job_id == after)
                number = await connection.scalar(of_after)
                if number is None:
                    raise UnknownJob(self._unknown(after))
                where.append(jobs.c.number < number)
            return await read_jobs(connection, *where, limit=limit)

    @uninterrupted
    async def cancel(self, job_id: str) -> Job:
        """The job, cancelled if it had not ended; `JobRunner._keep` notices at its next poll. Raises: UnknownJob."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            end = end_values("cancelled", now, self._limits.results_kept_s)
            changed = await change(connection, now, end, jobs.c.job_id == job_id, UNFINISHED)
            job = await self._get(connection, job_id)
        JOBS_ENDED.add(int(changed), state="cancelled")
        return job

    async def ended(self, job_id: str, within_s: float) -> Job:
        """The job when it has ended, or as it is after so many seconds. Raises: UnknownJob."""
        deadline = asyncio.get_running_loop().time() + within_s
        while not (job := await self.get(job_id)).ended:
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                return job
            with suppress(asyncio.TimeoutError):  # the job as it is then is the answer
                await asyncio.wait_for(self._watcher.changed(job_id, (job.last_event, job.position)), left_s)
        return job

    async def events(self, job_id: str, after: int) -> AsyncIterator[tuple[int, Job]]:
        """Every change of a job, numbered from 1, those after number `after`; ends when the job does, or is deleted.

        A queued job that moves up is given again, under the number of its last change. Raises: UnknownJob.
        """
        job, new = await self._changes(job_id, after)
        number = min(max(after, 0), job.last_event)
        while True:
            for number, snapshot in new:
                yield number, snapshot
            if job.ended:
                return
            before = job
            await self._watcher.changed(job_id, (job.last_event, job.position))
            try:
                job, new = await self._changes(job_id, number)
            except UnknownJob:
                return
            if not new and job.position != before.position:
                yield number, job

    @uninterrupted
    async def ends_in_s(self, job: Job) -> int:
        """Seconds until this job will have ended, estimated from its position and the last jobs."""
        async with self._database.read() as connection:
            return await _ends_in_s(connection, job)

    def close(self) -> None:
        """Ends what follows a job."""
        self._watcher.close()

    @uninterrupted
    async def _changes(self, job_id: str, after: int) -> tuple[Job, list[tuple[int, Job]]]:
        """The job, and what it was at each event after this one."""
        async with self._database.read() as connection:
            job = await self._get(connection, job_id)
            query = sa.select(events).where(events.c.job_id == job_id, events.c.number > after)
            rows = (await connection.execute(query.order_by(events.c.number))).all()
        return job, [(row.number, at_event(job, row)) for row in rows if row.number <= job.last_event]

    async def _get(self, connection: AsyncConnection, job_id: str, owner: str | None = None) -> Job:
        found = await read_jobs(connection, jobs.c.job_id == job_id)
        if not found or owner not in (None, found[0].caller):
            raise UnknownJob(self._unknown(job_id))
        return found[0]

    def _unknown(self, job_id: str) -> str:
        return (
            f"job '{job_id[:64]}' is not known; a job is deleted with its results "
            f"{self._limits.results_kept_s:g} s after it ended (serve.results_kept_s)"
        )

    async def _find(self, connection: AsyncConnection, caller: str, idempotency: Idempotency) -> Job | None:
        query = sa.select(jobs.c.job_id, jobs.c.idempotency_digest, jobs.c.created_at)
        of_key = (jobs.c.caller == caller, jobs.c.idempotency_key == idempotency.key)
        known = (await connection.execute(query.where(*of_key))).one_or_none()
        if known is None or known.created_at < await self._database.now(connection) - IDEMPOTENCY_KEPT_S:
            return None
        if known.idempotency_digest != idempotency.digest:
            raise IdempotencyConflict(
                f"this Idempotency-Key was used for another request (job '{known.job_id}'); use a new key for a new "
                "request"
            )
        return await self._get(connection, known.job_id)

    async def _admit(self, connection: AsyncConnection, caller: str, covers: int, allowed: Allowance) -> None:
        """Raises: Overloaded, TooManyJobs, QuotaExceeded where the queue or this caller is at its limit; InputError."""
        unfinished, own = await connection.scalar(_OPEN_JOBS) or 0, 0
        if allowed.jobs_at_once is not None or unfinished >= self._limits.jobs_max:
            own = await connection.scalar(_OWN_OPEN_JOBS, {"own": caller}) or 0
        if allowed.jobs_at_once is not None and own >= allowed.jobs_at_once:
            raise TooManyJobs(
                f"{own} of your jobs are queued or running, and this API key may have {allowed.jobs_at_once}; wait for "
                "one to end, cancel one, or ask the operator for a key with more (jobs at once)",
                await _room_in_s(connection),
            )
        if unfinished >= self._limits.jobs_max and own:  # who has none may add one: no other caller can keep it out
            raise Overloaded(
                f"{unfinished} jobs are under way, at most {self._limits.jobs_max} (serve.jobs_max); try again later",
                await _room_in_s(connection),
            )
        if allowed.covers_per_month is not None:
            now = await self._database.now(connection)
            await check_covers(connection, now, caller, covers, allowed.covers_per_month)


async def check_covers(connection: AsyncConnection, now: float, caller: str, covers: int, most: int) -> None:
    """Nothing, where a caller may have so many covers more this month, beside those of its jobs under way.

    Args:
        now: seconds since 1970.
        most: covers that it may have in a month.

    Raises: QuotaExceeded; InputError where a whole month would not do.
    """
    if covers > most:
        raise InputError(
            f"n = {covers}: this API key may have {most} covers a month; ask for fewer, or the operator for a key with "
            "more"
        )
    first, left_s = month_of(now)
    query = sa.select(sa.func.coalesce(sa.func.sum(jobs.c.covers), 0)).where(jobs.c.caller == caller, OPEN)
    pending = int(await connection.scalar(query) or 0)
    made = await covers_since(connection, caller, first)
    if made + pending + covers <= most:
        return
    proceed = "wait for your jobs to end, or" if made + covers <= most else f"the month ends in {left_s:.0f} s;"
    raise QuotaExceeded(
        f"n = {covers}: this API key has had {made} covers this month, {pending} are under way, and it may have "
        f"{most}; {proceed} ask for fewer, or the operator for a key with more (covers a month)",
        RETRY_AFTER_S if made + covers <= most else ceil(left_s),
    )


def webhook_of_job(named: Webhook | None, caller: str, *, webhooks: bool) -> dict[str, Any]:
    """Columns of the webhook of a new job: the one that is named; else that of the caller's key, as it is in the
    moment of the statement.

    Args:
        webhooks: whether something signs and delivers them; where nothing does, no key's webhook is used.
    """
    if named is not None or not webhooks:
        return webhook_columns(named)
    columns = (keys.c.webhook_url, keys.c.webhook_events)
    return {one.name: sa.select(one).where(keys.c.key == caller).scalar_subquery() for one in columns}


async def _pace(connection: AsyncConnection) -> tuple[float, int]:
    """Mean seconds that the last jobs took to generate, and how many are generated at once."""
    row = (await connection.execute(_PACE)).one()
    return (RETRY_AFTER_S if row[0] is None else float(row[0])), max(1, row[1])


async def _ends_in_s(connection: AsyncConnection, job: Job) -> int:
    """Seconds until this job will have ended, estimated from its position and the last jobs."""
    each_s, at_once = await _pace(connection)
    left = 1 - job.progress if job.position is None else job.position // at_once + 1
    return _whole_s(each_s, left)


async def _room_in_s(connection: AsyncConnection) -> int:
    """Seconds until a job that is generated will have ended."""
    each_s, at_once = await _pace(connection)
    return _whole_s(each_s, 1 / at_once)


def _whole_s(each_s: float, times: float) -> int:
    return max(1, min(RETRY_AFTER_MAX_S, math.ceil(each_s * times)))


def end_values(state: State, now: float, kept_s: float) -> dict[object, object]:
    """What an end changes in a job's row; a job with a key is kept for as long as its key.

    Args:
        now: seconds since 1970.
        kept_s: seconds that results are kept.
    """
    return {
        jobs.c.state: state,
        jobs.c.finished_at: now,
        jobs.c.expires_at: expiry(jobs, now, kept_s),
        jobs.c.lease_until: None,
    }


def expiry(ended: sa.Table, now: float, kept_s: float) -> sa.ColumnElement[float]:
    """When jobs, or batches, that end now are deleted: those with a key once their key has expired, at the earliest.

    Args:
        ended: the table.
        now: seconds since 1970.
        kept_s: seconds that results are kept.
    """
    key_ends = ended.c.created_at + IDEMPOTENCY_KEPT_S
    has_longer_key = ended.c.idempotency_key.is_not(None) & (key_ends > now + kept_s)
    return sa.case((has_longer_key, key_ends), else_=now + kept_s)
