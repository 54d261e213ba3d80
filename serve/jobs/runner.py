"""Runs generation jobs: one task each, which writes progress and result into the table and can be cancelled.

Every job has one asyncio task, which waits for the generator; so the generator's replicas set how many run at once, and
the table's positions are the order in which they wait. A job is finished by the services of the release that it was
created for, also when another release has become active meanwhile. Knows nothing of HTTP or of Ray.
"""

import asyncio
import contextvars
import logging
from contextlib import aclosing

import numpy as np

from gatefold.errors import GatefoldError
from gatefold.generator.originality import NewCover
from gatefold.records import Match
from serve.active_release import ActiveRelease
from serve.api.problems import internal_error
from serve.interfaces import GenerationResult, Query, ReleaseServices
from serve.jobs.jobs import GeneratedCovers, Idempotency, Job, JobSpec, JobTable

logger = logging.getLogger(__name__)


class JobRunner:
    """The table of jobs and the tasks that run them."""

    def __init__(self, active: ActiveRelease, jobs: JobTable) -> None:
        self.jobs = jobs
        self._active = active
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def submit(self, services: ReleaseServices, spec: JobSpec, idempotency: Idempotency | None) -> Job:
        """The job of this specification, begun unless its key began it before. Raises: Overloaded,
        IdempotencyConflict."""
        job, new = await self.jobs.create(spec, idempotency)
        if new:
            # An empty context, as a job outlives its request: Serve cancels what carries the context of a lost one.
            task = contextvars.Context().run(asyncio.create_task, self._run(services, job))
            self._active.acquire(services)
            self._tasks[job.job_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))
            task.add_done_callback(lambda _: self._active.release(services))
        return job

    async def cancel(self, job_id: str) -> Job:
        """The job, cancelled if it had not ended. Raises: UnknownJob."""
        job = await self.jobs.cancel(job_id)
        if (task := self._tasks.get(job_id)) is not None and job.state == "cancelled":
            task.cancel()
        return job

    async def _run(self, services: ReleaseServices, job: Job) -> None:
        try:
            generated = await self._generate(services, job)
        except GatefoldError as error:
            logger.warning("job %s failed: %s: %s", job.job_id, error.code, error.message)
            await self.jobs.fail(job.job_id, error)
        except Exception:
            logger.exception("job %s failed", job.job_id)
            await self.jobs.fail(job.job_id, internal_error())
        else:
            await self.jobs.succeed(job.job_id, generated)

    async def _generate(self, services: ReleaseServices, job: Job) -> GeneratedCovers:
        result: GenerationResult | None = None
        async with aclosing(services.generator.generate(job.spec.job)) as generating:
            async for news in generating:
                if isinstance(news, GenerationResult):
                    result = news
                else:
                    await self.jobs.advance(job.job_id, news)
        if result is None:
            raise internal_error()
        return GeneratedCovers(result, await _closest(services, result))


async def _closest(services: ReleaseServices, result: GenerationResult) -> tuple[Match | None, ...]:
    """For each new cover, the cover of the catalogue nearest to it in the cover tower's space."""
    new = {place: cover for place, cover in enumerate(result.covers) if isinstance(cover, NewCover)}
    found: list[Match | None] = [None] * len(result.covers)
    if new:
        pixels = np.stack([cover.generated.pixels for cover in new.values()])
        embeddings = await services.encoder.embed_covers(pixels)
        encoder = services.release.encoder.fingerprint
        nearest = await asyncio.gather(*(services.retriever.search(Query(e, encoder, k=1)) for e in embeddings))
        for place, matches in zip(new, nearest, strict=True):
            found[place] = matches[0] if matches else None
    return tuple(found)
