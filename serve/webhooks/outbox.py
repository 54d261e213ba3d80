"""The outbox of webhooks: events that are to be delivered, written in the transaction that ends their job; claimed for
an attempt, and what came of it.

A claim is a lease and a token, as of a job: an attempt whose process was lost is made again by another, so an event
arrives at least once, and always under the same id and with the same body. Knows nothing of HTTP.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.errors import NotFound
from gatefold.serve_settings import WebhookSettings
from serve.api.cover_views import job_view
from serve.jobs.database import Database, uninterrupted
from serve.jobs.jobs import Job
from serve.jobs.tables import deliveries, delivery_attempts, jobs
from serve.webhooks.contracts import DeliveryState, WebhookEvent, WebhookEventType
from serve.webhooks.receivers import parse_receiver

GONE = 410
"""status of a receiver that wants nothing of this kind any more"""
_LEASE_MARGIN_S = 30.0
"""seconds beyond the longest attempt until its claim ends"""
_OF_STATE: dict[str, WebhookEventType] = {
    "succeeded": "job.succeeded",
    "failed": "job.failed",
    "cancelled": "job.cancelled",
}
_STEP = 4.0
"""factor between two pauses"""


@dataclass(frozen=True)
class ClaimedDelivery:
    """The right to make one attempt."""

    delivery_id: int
    token: int
    message_id: str
    """the same in every attempt"""
    receiver: str
    """host and port"""
    body: str = field(repr=False)
    url: str = field(repr=False)
    since: float = 0.0
    """when it was last made pending, in seconds since 1970"""
    tries: int = 0
    """attempts before this one, since then"""


@dataclass(frozen=True)
class Answer:
    """What came of one attempt."""

    seconds: float
    status: int | None = None
    """of HTTP; None where there was no answer"""
    text: str | None = None
    """beginning of the answer's body"""
    error: str | None = None
    """why there was none"""

    @property
    def is_accepted(self) -> bool:
        """Whether the receiver has it."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def result(self) -> Literal["accepted", "refused", "unanswered"]:
        """In one word."""
        if self.status is None:
            return "unanswered"
        return "accepted" if self.is_accepted else "refused"


@dataclass(frozen=True)
class Attempt:
    """An attempt that was made."""

    number: int
    at: float
    """seconds since 1970"""
    answer: Answer


@dataclass(frozen=True)
class Delivery:
    """An event of a job, and the attempts to deliver it."""

    number: int
    """of the job's, from 1"""
    message_id: str
    event: WebhookEventType
    receiver: str
    state: DeliveryState
    created_at: float
    """seconds since 1970"""
    next_at: float | None
    """of the next attempt; None where there is none"""
    attempts: tuple[Attempt, ...]


async def add_delivery(connection: AsyncConnection, now: float, job: Job) -> None:
    """Writes the end of a job down to be delivered; nothing where its webhook does not want to know of that.

    Args:
        now: seconds since 1970.
        job: which has ended, and has a webhook.
    """
    assert job.webhook is not None
    assert job.finished_at is not None
    event = _OF_STATE[job.state]
    if job.webhook.events is not None and event not in job.webhook.events:
        return
    receiver = parse_receiver(job.webhook.url)
    await connection.execute(
        sa.insert(deliveries).values(
            job_id=job.job_id,
            number=1,
            event=event,
            url=receiver.url,
            receiver=receiver.name,
            body=WebhookEvent(type=event, timestamp=job.finished_at, data=job_view(job)).model_dump_json(),
            created_at=now,
            next_at=now,
            since=now,
        )
    )


class Outbox:
    """The deliveries of one database.

    Args:
        database: with its schema up to date.
    """

    def __init__(self, database: Database, settings: WebhookSettings) -> None:
        self._database = database
        self._settings = settings

    @uninterrupted
    async def claim(self, count: int, under_way: Mapping[str, int]) -> list[ClaimedDelivery]:
        """At most so many deliveries that are due, of as many receivers as there are.

        Args:
            under_way: attempts that this process has under way, by receiver.
        """
        async with self._database.read() as connection:  # most questions find nothing, and need not lock anything
            now = await self._database.now(connection)
            if not await connection.scalar(sa.select(deliveries.c.delivery_id).where(_due(now)).limit(1)):
                return []
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            candidates = (await connection.scalars(self._candidates(now, count, under_way))).all()
            free = sa.select(deliveries.c.delivery_id).where(deliveries.c.delivery_id.in_(candidates), _due(now))
            ids = (await connection.scalars(free.with_for_update(skip_locked=True))).all()
            until = now + self._settings.timeout_s + _LEASE_MARGIN_S
            leased = sa.update(deliveries).where(deliveries.c.delivery_id.in_(ids))
            leased = leased.values(token=deliveries.c.token + 1, lease_until=until)
            return [_claimed(row) for row in (await connection.execute(leased.returning(deliveries))).all()]

    @uninterrupted
    async def record(self, claim: ClaimedDelivery, answer: Answer) -> DeliveryState | None:
        """Writes down what came of an attempt, and when there is another; nothing, and gives None, where the claim was
        lost."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            held = deliveries.c.delivery_id == claim.delivery_id, deliveries.c.token == claim.token
            since = await connection.scalar(sa.select(deliveries.c.since).where(*held).with_for_update())
            if since is None:
                return None
            values: dict[str, Any] = {
                "attempts": deliveries.c.attempts + 1,
                "tries": deliveries.c.tries + 1,
                "lease_until": None,
                # asked for again meanwhile: then it stays due
                **(self._outcome(claim, answer, now) if since == claim.since else {}),
            }
            written = sa.update(deliveries).where(*held).values(values)
            changed = written.returning(deliveries.c.attempts, deliveries.c.state)
            number, state = (await connection.execute(changed)).one()
            await connection.execute(
                sa.insert(delivery_attempts).values(
                    delivery_id=claim.delivery_id,
                    number=number,
                    at=now,
                    seconds=answer.seconds,
                    status=answer.status,
                    answer=answer.text,
                    error=answer.error,
                )
            )
            orphaned = ~sa.exists().where(jobs.c.job_id == deliveries.c.job_id)
            done = sa.delete(deliveries).where(*held, deliveries.c.state != "pending", orphaned)
            await connection.execute(done)
            return cast(DeliveryState, state)

    @uninterrupted
    async def hand_back(self, claim: ClaimedDelivery) -> None:
        """Due again at once, as if it had not been tried."""
        async with self._database.write() as connection:
            held = deliveries.c.delivery_id == claim.delivery_id, deliveries.c.token == claim.token
            await connection.execute(sa.update(deliveries).where(*held).values(lease_until=None))

    @uninterrupted
    async def list_of(self, job_id: str) -> list[Delivery]:
        """A job's deliveries, the first first."""
        async with self._database.read() as connection:
            return await _read(connection, deliveries.c.job_id == job_id)

    @uninterrupted
    async def redeliver(self, job_id: str, number: int) -> Delivery:
        """The delivery, due at once, and to be tried for as long as a new one. Raises: NotFound."""
        async with self._database.write() as connection:
            now = await self._database.now(connection)
            which = deliveries.c.job_id == job_id, deliveries.c.number == number
            pending = {"state": "pending", "next_at": now, "since": now, "tries": 0}
            await connection.execute(sa.update(deliveries).where(*which).values(pending))
            found = await _read(connection, *which)
        if not found:
            raise NotFound(f"job '{job_id}' has no delivery {number}; GET /v1/covers/{job_id}/deliveries lists them")
        return found[0]

    def _candidates(self, now: float, count: int, under_way: Mapping[str, int]) -> sa.Select[tuple[int]]:
        """What is due and has room, the first of each receiver before the second of any."""
        rank = sa.func.row_number().over(partition_by=deliveries.c.receiver, order_by=deliveries.c.next_at)
        each = self._settings.at_once_per_receiver
        room: sa.ColumnElement[int] = sa.literal(each)
        if under_way:
            left = {receiver: each - number for receiver, number in under_way.items()}
            room = sa.case(left, value=deliveries.c.receiver, else_=each)
        columns = deliveries.c.delivery_id, deliveries.c.next_at, rank.label("rank"), room.label("room")
        ranked = sa.select(*columns).where(_due(now)).subquery()
        query = sa.select(ranked.c.delivery_id).where(ranked.c.rank <= ranked.c.room)
        return query.order_by(ranked.c.rank, ranked.c.next_at).limit(count)

    def _outcome(self, claim: ClaimedDelivery, answer: Answer, now: float) -> dict[str, Any]:
        """State, or time of the next attempt; the last one is made when the time for attempts is over."""
        if answer.is_accepted:
            return {"state": "delivered"}
        ends = claim.since + self._settings.retry_for_s
        if answer.status == GONE or now >= ends:
            return {"state": "failed"}
        longest = self._settings.retry_longest_s
        pause_s = min(longest, self._settings.retry_first_s * _STEP ** min(claim.tries, 32))
        return {"next_at": min(ends, now + random.uniform(0.9, 1.1) * pause_s)}


def _due(now: float) -> sa.ColumnElement[bool]:
    free = deliveries.c.lease_until.is_(None) | (deliveries.c.lease_until < now)
    return (deliveries.c.state == "pending") & (deliveries.c.next_at <= now) & free


def _claimed(row: Any) -> ClaimedDelivery:
    return ClaimedDelivery(
        row.delivery_id,
        row.token,
        _message_id(row),
        row.receiver,
        body=row.body,
        url=row.url,
        since=row.since,
        tries=row.tries,
    )


async def _read(connection: AsyncConnection, *where: sa.ColumnElement[bool]) -> list[Delivery]:
    rows = (await connection.execute(sa.select(deliveries).where(*where).order_by(deliveries.c.number))).all()
    ids = [row.delivery_id for row in rows]
    query = sa.select(delivery_attempts).where(delivery_attempts.c.delivery_id.in_(ids))
    made: dict[int, list[Attempt]] = {one: [] for one in ids}
    for row in await connection.execute(query.order_by(delivery_attempts.c.number)):
        answer = Answer(row.seconds, row.status, row.answer, row.error)
        made[row.delivery_id].append(Attempt(row.number, row.at, answer))
    return [_delivery(row, made[row.delivery_id]) for row in rows]


def _delivery(row: Any, made: Sequence[Attempt]) -> Delivery:
    return Delivery(
        number=row.number,
        message_id=_message_id(row),
        event=row.event,
        receiver=row.receiver,
        state=row.state,
        created_at=row.created_at,
        next_at=row.next_at if row.state == "pending" else None,
        attempts=tuple(made),
    )


def _message_id(row: Any) -> str:
    return f"msg_{row.job_id}_{row.number}"


