"""What the tests of webhooks share: a deliverer that reaches receivers on this machine, and jobs that end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from gatefold.serve_settings import WebhookSettings
from serve.jobs.jobs import Job, Webhook
from serve.jobs.store import new_job_id
from serve.webhooks.deliverer import Deliverer
from serve.webhooks.outbox import Delivery, Outbox
from serve.webhooks.receivers import Resolve
from serve.webhooks.sender import WebhookSender, WebhookTrust
from tests.receiver import SECRET, authority, resolve_here
from tests.unit.serve.jobs.conftest import SPEC, Jobs
from tests.unit.serve.jobs.conftest import opened as opened


def hooks(**settings: Any) -> WebhookSettings:
    """Quick ones, for receivers on this machine."""
    quick = {"allowed_hosts": ["hooks.test", "slow.test"], "timeout_s": 5.0, "retry_first_s": 0.05}
    return WebhookSettings(**(quick | settings))


@asynccontextmanager
async def delivering(
    jobs: Jobs, settings: WebhookSettings, secrets: tuple[str, ...] = (SECRET,), resolve: Resolve = resolve_here
) -> AsyncIterator[Outbox]:
    """What is in the outbox is delivered meanwhile."""
    outbox = Outbox(jobs.database, settings)
    sender = WebhookSender(WebhookTrust(secrets, authority()[0]), settings, resolve)
    deliverer = Deliverer(outbox, sender, settings, 0.01)
    deliverer.start()
    try:
        yield outbox
    finally:
        await deliverer.close()


async def made(jobs: Jobs, url: str, events: tuple[str, ...] | None = None) -> Job:
    """A queued job whose end is to be reported."""
    job, *_ = await jobs.store.create(new_job_id(), SPEC, caller="me", webhook=Webhook(url, events))
    return job


async def cancelled(jobs: Jobs, url: str) -> Job:
    """One that has ended."""
    return await jobs.store.cancel((await made(jobs, url)).job_id)


async def only(outbox: Outbox, job: Job) -> Delivery:
    (delivery,) = await outbox.list_of(job.job_id)
    return delivery
