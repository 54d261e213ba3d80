"""Rows of the database of jobs and the `Job` they stand for; and the only way in which a job's state or progress
changes, which numbers the change and writes it down as an event."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from serve.access.usage import add_usage, day_of
from serve.jobs.jobs import ENDED, Job, JobResult, JobSpec, StoredCover
from serve.jobs.records import error_of, match_of, spec_of, spec_record, webhook_of
from serve.jobs.tables import events, images, jobs
from serve.webhooks.outbox import add_delivery

_AHEAD = jobs.alias("ahead")
POSITION = sa.case(
    (
        jobs.c.state == "queued",
        sa.select(sa.func.count())
        .select_from(_AHEAD)
        .where(
            _AHEAD.c.state == "queued",
            (_AHEAD.c.priority > jobs.c.priority)
            | ((_AHEAD.c.priority == jobs.c.priority) & (_AHEAD.c.turn < jobs.c.turn))
            | (
                (_AHEAD.c.priority == jobs.c.priority)
                & (_AHEAD.c.turn == jobs.c.turn)
                & (_AHEAD.c.number < jobs.c.number)
            ),
        )
        .correlate(jobs)
        .scalar_subquery(),
    )
).label("position")
"""queued jobs that go before this one; null once it is not queued"""
ORDER = (jobs.c.priority.desc(), jobs.c.turn, jobs.c.number)
"""in which queued jobs are claimed"""
UNFINISHED = jobs.c.state.in_(("queued", "running"))
OPEN = jobs.c.finished_at.is_(None)
"""the same, as the index `jobs_unfinished` has it"""
_CLAIMED = jobs.c.token > sa.literal_column("0")
_SAME = jobs.c.priority == sa.bindparam("same", type_=sa.Integer)
_TURNS = sa.select(  # of a priority: which the queue has come to, and the last of a caller's own
    sa.func.coalesce(
        sa.select(sa.func.max(jobs.c.turn)).where(_SAME, _CLAIMED).scalar_subquery(),
        sa.select(sa.func.min(jobs.c.turn)).where(_SAME, jobs.c.state == "queued").scalar_subquery(),
        0,  # what was claimed may be deleted by now
    ).label("present"),
    sa.select(sa.func.max(jobs.c.turn))
    .where(jobs.c.caller == sa.bindparam("of"), _SAME, OPEN)
    .scalar_subquery()
    .label("own"),
)
_FIRST_EVENT = (
    sa.insert(events)
    .from_select(
        ["job_id", "number", "at", "state", "progress", "position"],
        sa.select(
            jobs.c.job_id, sa.literal_column("1"), jobs.c.created_at, jobs.c.state, sa.literal_column("0.0"), POSITION
        ).where(jobs.c.job_id == sa.bindparam("new")),
    )
    .returning(events.c.position)
)
_CHANGED = (
    jobs.c.job_id, jobs.c.last_event, jobs.c.state, jobs.c.progress, jobs.c.caller, jobs.c.started_at,
    jobs.c.webhook_url,
)  # fmt: skip


async def read_jobs(connection: AsyncConnection, *where: sa.ColumnElement[bool], limit: int | None = None) -> list[Job]:
    """The jobs that these conditions hold for, the last accepted first.

    Args:
        limit: jobs at most.
    """
    query = sa.select(jobs, POSITION).where(*where).order_by(jobs.c.number.desc()).limit(limit)
    rows = (await connection.execute(query)).all()
    succeeded = [row.job_id for row in rows if row.state == "succeeded"]
    covers: dict[str, list[StoredCover]] = {job_id: [] for job_id in succeeded}
    if succeeded:
        of_jobs = sa.select(images).where(images.c.job_id.in_(succeeded)).order_by(images.c.job_id, images.c.place)
        for row in await connection.execute(of_jobs):
            closest = None if row.closest is None else match_of(row.closest)
            covers[row.job_id].append(StoredCover(row.record, closest))
    return [_job_of(row, covers.get(row.job_id)) for row in rows]


def _job_of(row: Any, covers: Sequence[StoredCover] | None) -> Job:
    result = None
    if covers is not None:
        matches = tuple(match_of(match) for match in row.result["matches"])
        result = JobResult(row.result["folder"], matches, tuple(covers))
    return Job(
        job_id=row.job_id,
        caller=row.caller,
        spec=spec_of(row.spec),
        created_at=time_of(row.created_at),
        state=row.state,
        position=row.position,
        progress=row.progress,
        started_at=None if row.started_at is None else time_of(row.started_at),
        finished_at=None if row.finished_at is None else time_of(row.finished_at),
        expires_at=None if row.expires_at is None else time_of(row.expires_at),
        result=result,
        error=None if row.error is None else error_of(row.error),
        last_event=row.last_event,
        cancel_at=None if row.cancel_at is None else time_of(row.cancel_at),
        webhook=webhook_of(row),
    )


async def next_turn(connection: AsyncConnection, caller: str, priority: int) -> int:
    """The turn of a caller's next job: one after the last of its own that has not ended, and not before the turn that
    the queue has come to. So callers take turns: however many jobs one has queued, another's first goes before all of
    those but the claimed ones.

    Source: Goyal, Vin & Cheng, "Start-time Fair Queuing" (1997), with jobs of one length.
    """
    row = (await connection.execute(_TURNS, {"of": caller, "same": priority})).one()
    return int(row.present) if row.own is None else max(row.present, row.own + 1)


async def insert_job(
    connection: AsyncConnection,
    now: float,
    job_id: str,
    spec: JobSpec,
    caller: str,
    priority: int,
    webhook: dict[str, Any],
    **values: object,
) -> int | None:
    """A queued job, and its first event; how many jobs go before it.

    Args:
        now: seconds since 1970.
        webhook: columns, as of `webhook_of_job` of serve.jobs.store.
        values: of other columns.
    """
    await connection.execute(
        sa.insert(jobs).values(
            job_id=job_id,
            caller=caller,
            priority=priority,
            turn=await next_turn(connection, caller, priority),
            covers=spec.n,
            state="queued",
            created_at=now,
            spec=spec_record(spec),
            **webhook,
            **values,
        )
    )
    position: int | None = await connection.scalar(_FIRST_EVENT, {"new": job_id})
    return position


async def end(
    connection: AsyncConnection, now: float, values: dict[Any, Any], job_ids: Sequence[str]
) -> None:
    """Ends these jobs, as far as they have not ended.

    Args:
        now: seconds since 1970.
        values: by column, as of `change`.
    """
    for job_id in job_ids:
        await change(connection, now, values, jobs.c.job_id == job_id, UNFINISHED)


async def change(
    connection: AsyncConnection, now: float, values: dict[Any, Any], *where: sa.ColumnElement[bool], covers: int = 0
) -> bool:
    """Changes the one job that the conditions hold for, and writes the change down as its next event; where it ends the
    job, also as usage, and as one to be delivered where it has a webhook. The images of a job that succeeds are there
    already.

    Args:
        now: seconds since 1970.
        values: by column.
        covers: new covers that came of it.

    Returns: whether there was such a job.
    """
    changed = await connection.execute(
        sa.update(jobs)
        .where(*where)
        .values({jobs.c.last_event: jobs.c.last_event + 1, **values})
        .returning(*_CHANGED)
    )
    row = changed.one_or_none()
    if row is None:
        return False
    await connection.execute(
        sa.insert(events).values(
            job_id=row.job_id, number=row.last_event, at=now, state=row.state, progress=row.progress
        )
    )
    if row.state in ENDED:
        generation_s = 0.0 if row.started_at is None else max(0.0, now - row.started_at)
        await add_usage(connection, row.caller, day_of(now), covers=covers, generation_s=generation_s)
        if row.webhook_url is not None:
            (job,) = await read_jobs(connection, jobs.c.job_id == row.job_id)
            await add_delivery(connection, now, job)
    return True


def at_event(job: Job, event: Any) -> Job:
    """The job as it was at an event, seen from what it is now: only the last event shows its present position."""
    if event.number == job.last_event:
        return job
    ended = event.state in ENDED
    return replace(
        job,
        state=event.state,
        progress=event.progress,
        position=event.position,
        started_at=None if event.state == "queued" else job.started_at,
        finished_at=job.finished_at if ended else None,
        expires_at=job.expires_at if ended else None,
        result=job.result if event.state == "succeeded" else None,
        error=job.error if event.state == "failed" else None,
        last_event=event.number,
    )


def time_of(seconds: float) -> datetime:
    """The moment so many seconds after the beginning of 1970."""
    return datetime.fromtimestamp(seconds, UTC)
