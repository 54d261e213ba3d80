"""Runs generation jobs and batches, and delivers webhooks, as a deployment beside the API: a job does not end with the
replica that accepted it.

Several replicas share one queue. Knows nothing of HTTP.
"""

from typing import Any

from gatefold.config import ServeSettings
from gatefold.workspace import Workspace
from serve.active_release import ActiveRelease
from serve.batches.store import BatchStore
from serve.batches.worker import BatchWorker
from serve.deployments import replica
from serve.deployments.release import services_of
from serve.jobs.database import Database
from serve.jobs.files import JobFiles
from serve.jobs.queue import JobQueue
from serve.jobs.runner import JobRunner
from serve.observability.tracing import TraceArgs
from serve.optout_filter import OptOuts
from serve.ray_private import use_request_id
from serve.webhooks.deliverer import Deliverer
from serve.webhooks.outbox import Outbox
from serve.webhooks.sender import WebhookSender, WebhookTrust


class Runner:
    """Claims jobs as long as it lives, once it knows a release to run them by.

    Args:
        workspace: URI; songs and images of jobs lie there.
        database_url: of the database of jobs.
        webhooks: what signs them; where there is none, those that there are wait, and no key's webhook is used.
    """

    def __init__(
        self,
        workspace: str,
        *,
        limits: ServeSettings,
        endpoint_url: str | None,
        database_url: str,
        webhooks: WebhookTrust | None = None,
        traces: TraceArgs | None = None,
    ) -> None:
        replica.set_up(endpoint_url, traces)
        found = Workspace(workspace)
        self._database = Database(database_url)
        self._active = ActiveRelease(OptOuts(found))
        files = JobFiles(found, cache_bytes=0)  # it writes pictures and reads none
        queue = JobQueue(self._database, limits)
        self._runner = JobRunner(self._active, queue, files, limits, on_request=use_request_id)
        self._deliverer: Deliverer | None = None
        if webhooks is not None:
            outbox, sender = Outbox(self._database, limits.webhooks), WebhookSender(webhooks, limits.webhooks)
            self._deliverer = Deliverer(outbox, sender, limits.webhooks, limits.jobs_poll_s)
        batches = BatchStore(self._database, limits, webhooks=webhooks is not None)
        self._batches = BatchWorker(self._active, batches, limits)
        self._started = False

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """`user_config`: the application of the release that jobs are run by from now on, and how searches cross to
        it. Waits until it is there."""
        self._active.switch_to(await services_of(config))
        if not self._started:
            self._started = True
            await self._database.upgrade()
            self._runner.start()
            self._batches.start()
            if self._deliverer is not None:
                self._deliverer.start()

    async def in_use(self) -> list[str]:
        """Versions of the active release, which comes first, and of those that still have jobs to finish."""
        return self._active.in_use()

    async def __del__(self) -> None:
        """Called by Ray Serve when the replica is to end: what it has in hand goes back to the queue."""
        if self._started:
            if self._deliverer is not None:
                await self._deliverer.close()
            await self._batches.close()
            await self._runner.close()
            await self._database.close()
