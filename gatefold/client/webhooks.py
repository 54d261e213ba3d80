"""What a webhook brought, once its signature was verified, and what became of each delivery. No I/O.

    event = verify("whsec_...", request.headers, request.body)
    if event.type == "job.succeeded":
        print(event.data.images)

An event can arrive more than once, always under the same header `webhook-id`; answer with any status of 200 to 299.

Source: Standard Webhooks, specification 1.0.
"""

import base64
import binascii
import hashlib
import hmac
import math
import time
from collections.abc import Mapping
from datetime import datetime

from pydantic import ValidationError

from gatefold.client.errors import WebhookRefused
from gatefold.client.models import Answer, JobStatus

TOLERANCE_S = 300.0
"""seconds that an attempt may be old, or ahead of this machine's clock"""


class WebhookEvent(Answer):
    """What a webhook brings."""

    type: str
    """job.succeeded, job.failed or job.cancelled"""
    timestamp: datetime
    """of the event, whenever it arrives"""
    data: JobStatus
    """the job at its end"""


class DeliveryAttempt(Answer):
    """One attempt to deliver an event to a webhook."""

    number: int
    at: datetime
    seconds: float
    status: int | None
    """of the receiver's answer"""
    answer: str | None
    """beginning of its body"""
    error: str | None
    """why there was no answer"""


class WebhookDelivery(Answer):
    """An event of a job on its way to its webhook."""

    number: int
    webhook_id: str
    """the header `webhook-id`, the same in every attempt"""
    type: str
    receiver: str
    """host and port"""
    state: str
    """pending, delivered or failed"""
    created_at: datetime
    next_attempt_at: datetime | None
    attempts: list[DeliveryAttempt]


class DeliveryPage(Answer):
    """The deliveries of a job."""

    deliveries: list[WebhookDelivery]


def verify(
    secret: str, headers: Mapping[str, str], body: bytes | str, *, tolerance_s: float = TOLERANCE_S
) -> WebhookEvent:
    """The event, if it was signed with this secret, a short time ago.

    Args:
        secret: `whsec_...`, as the operator of the endpoint gave it.
        headers: of the request, in any case.
        body: of the request, byte for byte: JSON that was read and written again has another signature.
        tolerance_s: seconds that it may be old.

    Raises: WebhookRefused; ValueError for what is no secret.
    """
    key = _key(secret)
    found = {name.lower(): value for name, value in headers.items()}
    missing = [name for name in ("webhook-id", "webhook-timestamp", "webhook-signature") if not found.get(name)]
    if missing:
        raise WebhookRefused(f"the request has no header {missing[0]}")
    data = body.encode() if isinstance(body, str) else body
    _check_age(found["webhook-timestamp"], tolerance_s)
    signed = f"{found['webhook-id']}.{found['webhook-timestamp']}.".encode() + data
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest())
    shown = [one.removeprefix("v1,").encode() for one in found["webhook-signature"].split() if one.startswith("v1,")]
    if not any([hmac.compare_digest(wanted, one) for one in shown]):  # noqa: C419 - all of them, always
        raise WebhookRefused("none of its signatures was made with this secret")
    try:
        return WebhookEvent.model_validate_json(data)
    except ValidationError as error:
        raise WebhookRefused(f"it is signed, but no event of this API: {error.errors()[0]['msg']}") from None


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("secret: 'whsec_' and base64 are wanted, as the operator of the endpoint gave it")
    return key


def _check_age(timestamp: str, tolerance_s: float) -> None:
    if not (timestamp.isascii() and timestamp.isdecimal() and len(timestamp) < 16):
        raise WebhookRefused(f"webhook-timestamp = '{timestamp[:32]}' is no number of seconds")
    off_s = time.time() - int(timestamp)
    if not math.fabs(off_s) <= tolerance_s:
        raise WebhookRefused(f"webhook-timestamp is {off_s:,.0f} s old, at most {tolerance_s:g} s")
