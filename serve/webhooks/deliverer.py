"""Delivers what is due in the outbox, as long as it lives. Any number of them may work on the same outbox, in any
processes. A receiver that is slow or down holds no more than its own share of the attempts under way."""

import asyncio
import logging
from collections import Counter
from contextlib import suppress

from gatefold.errors import Unavailable
from gatefold.serve_settings import WebhookSettings
from serve.claiming import ClaimLoop, until_written
from serve.observability.metrics import WEBHOOK_ATTEMPTS, WEBHOOKS_GIVEN_UP
from serve.webhooks.outbox import GONE, ClaimedDelivery, Outbox
from serve.webhooks.sender import WebhookSender

logger = logging.getLogger(__name__)


class Deliverer:
    """Args:
    settings: `at_once`.
    poll_s: seconds between two looks at the outbox.
    """

    def __init__(self, outbox: Outbox, sender: WebhookSender, settings: WebhookSettings, poll_s: float) -> None:
        self._outbox, self._sender, self._settings, self._poll_s = outbox, sender, settings, poll_s
        self._attempts = ClaimLoop("webhooks", lambda claim: claim.message_id, self._claim, self._deliver, poll_s)

    def start(self) -> None:
        """Begins to deliver; called once, from the event loop that it is to run in."""
        self._attempts.start()

    async def close(self) -> None:
        """Claims no more; attempts that are under way are broken off, and due again at once."""
        await self._attempts.close()
        await self._sender.close()

    async def _claim(self) -> list[ClaimedDelivery]:
        under_way = Counter(attempt.receiver for attempt in self._attempts.in_hand)
        room = self._settings.at_once - under_way.total()
        return await self._outbox.claim(room, under_way) if room > 0 else []

    async def _deliver(self, claim: ClaimedDelivery) -> None:
        try:
            answer = await self._sender.send(claim)
        except asyncio.CancelledError:
            with suppress(Unavailable):  # then its lease ends by itself
                await self._outbox.hand_back(claim)
            raise
        WEBHOOK_ATTEMPTS.add(result=answer.result)
        if not answer.is_accepted:
            said = answer.error or f"status {answer.status}"
            logger.warning("webhook %s was not accepted by %s: %s", claim.message_id, claim.receiver, said)
        # else what was accepted would be delivered again
        state = await until_written(lambda: self._outbox.record(claim, answer), self._poll_s)
        if state == "failed":
            logger.warning("webhook %s to %s is given up", claim.message_id, claim.receiver)
            WEBHOOKS_GIVEN_UP.add(reason="gone" if answer.status == GONE else "expired")
