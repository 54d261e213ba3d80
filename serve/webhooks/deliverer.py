"""Delivers what is due in the outbox, as long as it lives. Any number of them may work on the same outbox, in any
processes. A receiver that is slow or down holds no more than its own share of the attempts under way."""

import asyncio
import logging
from collections import Counter
from contextlib import suppress

from gatefold.errors import DatabaseUnavailable, Unavailable
from gatefold.generator_settings import WebhookSettings
from serve.webhooks.outbox import Answer, ClaimedDelivery, Outbox
from serve.webhooks.sender import WebhookSender

logger = logging.getLogger(__name__)


class Deliverer:
    """Args:
    settings: `at_once`.
    poll_s: seconds between two looks at the outbox.
    """

    def __init__(self, outbox: Outbox, sender: WebhookSender, settings: WebhookSettings, poll_s: float) -> None:
        self._outbox, self._sender, self._settings, self._poll_s = outbox, sender, settings, poll_s
        self._attempts: set[asyncio.Task[None]] = set()
        self._under_way: Counter[str] = Counter()  # by receiver
        self._freed = asyncio.Event()
        self._closing = False
        self._claiming: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to deliver; called once, from the event loop that it is to run in."""
        self._claiming = asyncio.create_task(self._deliver_due())

    async def close(self) -> None:
        """Claims no more; attempts that are under way are broken off, and due again at once."""
        self._closing = True
        self._freed.set()
        if self._claiming is not None:
            await asyncio.wait({self._claiming})  # which ends by itself: what it claims must be known here
            await asyncio.sleep(0)  # a task that is cancelled before it has begun could hand nothing back
        for attempt in self._attempts:
            attempt.cancel()
        if self._attempts:
            await asyncio.wait(self._attempts)
        await self._sender.close()

    async def _deliver_due(self) -> None:
        while not self._closing:
            self._freed.clear()
            for claim in await self._claim():
                self._under_way[claim.receiver] += 1
                task = asyncio.create_task(self._deliver(claim))
                self._attempts.add(task)
                task.add_done_callback(lambda task, receiver=claim.receiver: self._free(task, receiver))  # type: ignore[misc]
            with suppress(TimeoutError):
                await asyncio.wait_for(self._freed.wait(), self._poll_s)

    async def _claim(self) -> list[ClaimedDelivery]:
        room = self._settings.at_once - len(self._attempts)
        if room <= 0:
            return []
        try:
            return await self._outbox.claim(room, +self._under_way)
        except Unavailable as error:
            logger.warning("no webhooks can be delivered now: %s", error)
        except Exception:
            logger.exception("no webhooks can be delivered now")
        return []

    def _free(self, task: "asyncio.Task[None]", receiver: str) -> None:
        self._attempts.discard(task)
        self._under_way[receiver] -= 1
        self._freed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a webhook to %s was not recorded", receiver, exc_info=error)

    async def _deliver(self, claim: ClaimedDelivery) -> None:
        try:
            answer = await self._sender.send(claim)
        except asyncio.CancelledError:
            with suppress(Unavailable):  # then its lease ends by itself
                await self._outbox.hand_back(claim)
            raise
        if not answer.is_accepted:
            said = answer.error or f"status {answer.status}"
            logger.warning("webhook %s was not accepted by %s: %s", claim.message_id, claim.receiver, said)
        await self._record(claim, answer)

    async def _record(self, claim: ClaimedDelivery, answer: Answer) -> None:
        """Tries until the database answers; else what was accepted would be delivered again."""
        while True:
            try:
                return await self._outbox.record(claim, answer)
            except DatabaseUnavailable as error:
                logger.warning("%s", error)
                await asyncio.sleep(self._poll_s)
