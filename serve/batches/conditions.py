"""Conditions of batches and of their lines, in SQL: what waits, what has ended, what is to be deleted."""

import sqlalchemy as sa

from serve.batches.lines import COVERS, SEARCHES
from serve.jobs.rows import UNFINISHED
from serve.jobs.tables import batch_lines, batches, jobs, keys

ARRIVING, RUNNING = "arriving", "running"
_ARRIVES_WITHIN_S = 3_600.0
"""seconds after which a batch is deleted that has not arrived whole: its replica was lost"""
OUTCOME = sa.case(
    (batch_lines.c.state == "skipped", "skipped"),
    (batch_lines.c.status < 400, "succeeded"),
    (batch_lines.c.status >= 400, "failed"),
    (jobs.c.state == "running", "running"),
    (jobs.c.state == "succeeded", "succeeded"),
    (jobs.c.state == "failed", "failed"),
    (jobs.c.state == "cancelled", "skipped"),
    else_="waiting",
)
"""of a line"""
TURN = {COVERS: batches.c.cover_turn, SEARCHES: batches.c.search_turn}
"""of a batch, by the calls of its lines"""


def first_waiting(url: str, now: float) -> sa.ScalarSelect[int]:
    """The first line of a batch that waits for this call; null where there is none."""
    of_batch = batch_lines.c.batch == batches.c.number, batch_lines.c.url == url, waiting(now)
    return sa.select(sa.func.min(batch_lines.c.line)).where(*of_batch).scalar_subquery()


def waiting(now: float) -> sa.ColumnElement[bool]:
    """Lines that nobody has claimed."""
    free = batch_lines.c.lease_until.is_(None) | (batch_lines.c.lease_until < now)
    return (batch_lines.c.state == "waiting") & free


def completed() -> sa.ColumnElement[bool]:
    """Running batches whose lines have all been answered."""
    waits = sa.exists().where(batch_lines.c.batch == batches.c.number, batch_lines.c.state == "waiting")
    runs = sa.exists().where(jobs.c.batch_id == batches.c.batch_id, UNFINISHED)
    return (batches.c.state == RUNNING) & ~waits & ~runs


def overdue(now: float) -> sa.ColumnElement[bool]:
    """Running batches whose time is over."""
    return (batches.c.state == RUNNING) & (batches.c.ends_at <= now)


def of_closed_key(now: float) -> sa.ColumnElement[bool]:
    """Running batches whose key has been revoked, or has expired."""
    closed = keys.c.revoked_at.is_not(None) | (keys.c.expires_at <= now)
    return (batches.c.state == RUNNING) & sa.exists().where(keys.c.key == batches.c.caller, closed)


def gone(now: float) -> sa.ColumnElement[bool]:
    """Batches that are to be deleted."""
    never_came = (batches.c.state == ARRIVING) & (batches.c.created_at < now - _ARRIVES_WITHIN_S)
    return never_came | (batches.c.expires_at < now)
