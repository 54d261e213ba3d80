"""One attempt to deliver an event: signed as Standard Webhooks says, sent, and its answer read as far as is kept.

No redirect is followed, and no proxy of the environment is used: either would lead to an address that was not checked.
Of a URL nothing but host and port comes into a log or an error.

Source: Standard Webhooks, specification 1.0.
"""

import asyncio
import base64
import binascii
import logging
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

import certifi
import httpcore
from standardwebhooks import Webhook

from gatefold.errors import InvalidSettings
from gatefold.serve_settings import WebhookSettings
from serve.webhooks.outbox import Answer, ClaimedDelivery
from serve.webhooks.receivers import CheckedNetwork, ReceiverRefused, Resolve, thread_resolver

logger = logging.getLogger(__name__)

VARIABLE = "GATEFOLD_WEBHOOK_SECRET"
SECRET_BYTES = (24, 64)
"""of a secret, at least and at most"""
_SECRET = re.compile(r"whsec_([A-Za-z0-9+/]+={0,2})")
_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)


@dataclass(frozen=True)
class WebhookTrust:
    """What deliveries are signed with, and whom they trust.

    Args:
        secrets: `whsec_...`; a receiver accepts a delivery by any of them.
        authorities: PEM of authorities beside the public ones.
    """

    secrets: tuple[str, ...] = field(repr=False)
    authorities: str | None = None


def secrets_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that GATEFOLD_WEBHOOK_SECRET holds, separated by white space; none where it is not set.

    Raises: InvalidSettings, which does not repeat them.
    """
    found = tuple(environment.get(VARIABLE, "").split())
    least, most = SECRET_BYTES
    for position, secret in enumerate(found, start=1):
        if not least <= _secret_bytes(secret) <= most:
            raise InvalidSettings(
                f"{VARIABLE}: secret {position} of {len(found)} must be 'whsec_' and the base64 of {least} to {most} "
                "random bytes: echo whsec_$(openssl rand -base64 32)"
            )
    return found


def _secret_bytes(secret: str) -> int:
    matched = _SECRET.fullmatch(secret)
    if matched is None:
        return 0
    try:
        return len(base64.b64decode(matched[1], validate=True))
    except binascii.Error:
        return 0


def trust_context(authorities: str | None) -> ssl.SSLContext:
    """Certificates of the public authorities, and of these. Raises: InvalidSettings where they are no PEM."""
    context = ssl.create_default_context(cafile=certifi.where())
    if authorities is not None:
        try:
            context.load_verify_locations(cadata=authorities)
        except (ssl.SSLError, ValueError) as error:
            raise InvalidSettings(f"serve.webhooks.authorities: no certificates in PEM: {error}") from None
    return context


class WebhookSender:
    """Makes attempts, any number at once, each over a connection of its own.

    Args:
        trust: at least one secret.
        settings: `timeout_s`, `answer_max_bytes`, `allowed_hosts`, `at_once`.
        resolve: looks names up; by the system when None.
    """

    def __init__(self, trust: WebhookTrust, settings: WebhookSettings, resolve: Resolve | None = None) -> None:
        self._signers = [Webhook(secret) for secret in trust.secrets]
        self._settings = settings
        self._pool = httpcore.AsyncConnectionPool(
            trust_context(trust.authorities),
            max_connections=None,
            max_keepalive_connections=0,  # a name is looked up, and its address checked, for each attempt
            network_backend=CheckedNetwork(resolve or thread_resolver(4 * settings.at_once), settings.allowed_hosts),
        )

    async def send(self, claim: ClaimedDelivery) -> Answer:
        """What came of it, whatever that is."""
        began, status, received = time.monotonic(), list[int](), bytearray()
        error: str | None = None
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._send(claim, status, received)
        except TimeoutError:
            error = f"no answer within {self._settings.timeout_s:g} s"
        except ReceiverRefused as refused:
            error = str(refused)
        except _FAILURES as failure:
            error = f"{type(failure).__name__}: {str(failure)[:200] or 'the connection broke off'}"
        except Exception:
            logger.exception("a webhook to %s failed", claim.receiver)
            error = "something failed inside the endpoint"
        seconds = time.monotonic() - began
        if not status:
            return Answer(seconds, error=error)
        return Answer(seconds, status[0], received.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}"))

    async def close(self) -> None:
        """Ends all connections."""
        await self._pool.aclose()

    async def _send(self, claim: ClaimedDelivery, status: list[int], received: bytearray) -> None:
        """Fills in the status once it is there, and the beginning of the body."""
        most = self._settings.answer_max_bytes
        stream = self._pool.stream("POST", claim.url, headers=self._headers(claim), content=claim.body.encode())
        async with stream as answer:
            status.append(answer.status)
            async for chunk in answer.aiter_stream():
                received += chunk[: most - len(received)]
                if len(received) >= most:
                    return

    def _headers(self, claim: ClaimedDelivery) -> Mapping[bytes | str, bytes | str]:
        now = datetime.now(UTC)
        signatures = [signer.sign(claim.message_id, now, claim.body) for signer in self._signers]
        return {
            "content-type": "application/json",
            "user-agent": f"gatefold/{version('gatefold')}",
            "accept-encoding": "identity",
            "connection": "close",
            "webhook-id": claim.message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }
