"""Models of what a webhook sends, and of the answers about its deliveries."""

from datetime import datetime
from typing import Literal, get_args

from serve.api.contracts import Body, JobView

WebhookEventType = Literal["job.succeeded", "job.failed", "job.cancelled"]
WEBHOOK_EVENTS: tuple[WebhookEventType, ...] = get_args(WebhookEventType)
DeliveryState = Literal["pending", "delivered", "failed"]


class WebhookEvent(Body):
    """What a webhook sends; `webhook-id`, `webhook-timestamp` and `webhook-signature` are its headers."""

    type: WebhookEventType
    timestamp: datetime
    """of the event, whenever it is delivered"""
    data: JobView
    """the job at its end"""


class AttemptView(Body):
    """One attempt to deliver an event."""

    number: int
    at: datetime
    """when its answer was there, or none was expected any more"""
    seconds: float
    status: int | None
    """of the answer; null where there was none"""
    answer: str | None
    """beginning of its body"""
    error: str | None
    """why there was none"""


class DeliveryView(Body):
    """An event of a job on its way to the webhook."""

    number: int
    """of the job's deliveries, from 1"""
    webhook_id: str
    """the header `webhook-id`, the same in every attempt"""
    type: WebhookEventType
    receiver: str
    """host and port; the rest of `webhook_url` is not shown"""
    state: DeliveryState
    created_at: datetime
    next_attempt_at: datetime | None
    """null once delivered or given up"""
    attempts: list[AttemptView]


class DeliveryList(Body):
    """The deliveries of a job."""

    deliveries: list[DeliveryView]
