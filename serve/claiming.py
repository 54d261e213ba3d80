"""Claiming of stored work while there is room: jobs, lines of batches, webhooks. Knows nothing of what is done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Generic, TypeVar

from gatefold.errors import DatabaseUnavailable, Unavailable

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class ClaimLoop(Generic[T]):
    """Claims what there is room for, and runs each claim as a task of its own, as long as it lives.

    Any number of them may claim from the same tables, in any processes.

    Args:
        what: the name of what is claimed, in the plural, for the log.
        name: of one claim, for the log.
        claim: claims as many as there is room for now; none when it raises, which is logged.
        run: does what a claim asks for. Cancelled when the loop is closed; it then hands its claim back.
        poll_s: seconds until it claims again, unless a claim has ended before, or `wake` was called.
    """

    def __init__(
        self,
        what: str,
        name: Callable[[T], str],
        claim: Callable[[], Awaitable[Sequence[T]]],
        run: Callable[[T], Coroutine[Any, Any, None]],
        poll_s: float,
    ) -> None:
        self._what, self._name, self._claim, self._run, self._poll_s = what, name, claim, run, poll_s
        self._in_hand: dict[asyncio.Task[None], T] = {}
        self._woken = asyncio.Event()
        self._closing = False
        self._claiming: asyncio.Task[None] | None = None

    @property
    def in_hand(self) -> list[T]:
        """Claims whose tasks have not ended."""
        return list(self._in_hand.values())

    def start(self) -> None:
        """Begins to claim; called once, from the event loop that it is to run in."""
        self._claiming = asyncio.create_task(self._claim_until_closed())

    def wake(self) -> None:
        """There may be something to claim: it looks now, and not only at the next poll."""
        self._woken.set()

    async def close(self) -> None:
        """Claims no more, cancels what is in hand, and returns when that has ended."""
        self._closing = True
        self._woken.set()
        if self._claiming is not None:
            await asyncio.wait({self._claiming})  # which ends by itself: what it claims must be known here
            await asyncio.sleep(0)  # a task that is cancelled before it has begun could hand nothing back
        await cancel(list(self._in_hand))

    async def _claim_until_closed(self) -> None:
        while not self._closing:
            self._woken.clear()  # before it claims: what is freed or comes meanwhile is a reason to claim again
            for claim in await self._claim_now():
                task = asyncio.create_task(self._run(claim))
                self._in_hand[task] = claim
                task.add_done_callback(self._free)
            if not self._closing:
                await set_within(self._woken, self._poll_s)

    async def _claim_now(self) -> Sequence[T]:
        try:
            return await self._claim()
        except Unavailable as error:
            logger.warning("no %s can be claimed now: %s", self._what, error)
        except Exception:
            logger.exception("no %s can be claimed now", self._what)
        return ()

    def _free(self, task: "asyncio.Task[None]") -> None:
        claim = self._in_hand.pop(task)
        self._woken.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s: what came of %s was not written down", self._what, self._name(claim), exc_info=error)


async def until_written(write: Callable[[], Awaitable[R]], pause_s: float) -> R:
    """What `write` gives, once the database answers: what was done is not given up for an outage.

    Raises: whatever else `write` does, such as LeaseLost.
    """
    while True:
        try:
            return await write()
        except DatabaseUnavailable as error:
            logger.warning("%s", error)
            await asyncio.sleep(pause_s)


async def set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set before so many seconds have passed. Unlike `wait_for` it never loses a cancellation."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()
    return event.is_set()


async def cancel(tasks: "Sequence[asyncio.Future[Any]]") -> None:
    """Cancels these, and returns when they have ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
