"""Routes of deliveries: what became of a job's webhook, and the same again by hand."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, Path, Request

from serve.access.own_jobs import OwnJobs
from serve.api.limits import ROW_NUMBER_MAX
from serve.jobs.rows import time_of
from serve.webhooks.contracts import AttemptView, DeliveryList, DeliveryView, WebhookEvent
from serve.webhooks.outbox import Attempt, Delivery, Outbox

DeliveryNumber = Annotated[int, Path(ge=1, le=ROW_NUMBER_MAX)]


class DeliveryRoutes:
    """Handlers of the routes; thin, around the outbox."""

    def __init__(self, own: OwnJobs, outbox: Outbox) -> None:
        self._own, self._outbox = own, outbox

    def router(self) -> APIRouter:
        """The routes of deliveries."""
        router = APIRouter(prefix="/covers", tags=["covers"])
        router.add_api_route("/{job_id}/deliveries", self.deliveries)
        router.add_api_route(
            "/{job_id}/deliveries/{number}/redeliver", self.redeliver, methods=["POST"], status_code=202
        )
        return router

    async def deliveries(self, request: Request, job_id: str) -> DeliveryList:
        """What became of the events that a job's webhook wants, with each attempt and its answer."""
        await self._own.get(request, job_id)  # says why there is none
        return DeliveryList(deliveries=[_view(one) for one in await self._outbox.list_of(job_id)])

    async def redeliver(self, request: Request, job_id: str, number: DeliveryNumber) -> DeliveryView:
        """The delivery, to be made again at once, whatever became of it; under the same `webhook-id`."""
        await self._own.get(request, job_id)
        return _view(await self._outbox.redeliver(job_id, number))


def describe_events(app: FastAPI) -> None:
    """Writes into the description what a webhook sends."""

    async def job_ended(event: WebhookEvent) -> None:
        """The end of a job, sent to its `webhook_url` or to the webhook of its key. Any answer of 200 to 299 accepts
        it."""

    app.webhooks.add_api_route("job-ended", job_ended, methods=["POST"], tags=["webhooks"], name="job_ended")


def _view(delivery: Delivery) -> DeliveryView:
    return DeliveryView(
        number=delivery.number,
        webhook_id=delivery.message_id,
        type=delivery.event,
        receiver=delivery.receiver,
        state=delivery.state,
        created_at=time_of(delivery.created_at),
        next_attempt_at=None if delivery.next_at is None else time_of(delivery.next_at),
        attempts=[_attempt_view(one) for one in delivery.attempts],
    )


def _attempt_view(attempt: Attempt) -> AttemptView:
    answer = attempt.answer
    return AttemptView(
        number=attempt.number,
        at=time_of(attempt.at),
        seconds=answer.seconds,
        status=answer.status,
        answer=answer.text,
        error=answer.error,
    )
