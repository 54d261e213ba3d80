"""Runs jobs: each is generated in its turn, its progress goes into the table, and what it cancels stops.

Every job has one asyncio task, which waits for the generator; so the generator's replicas set how many run at once, and
the table's positions are the order in which they wait. A job is finished by the stages that took its order, also when
those of another release have taken over meanwhile. Knows nothing of HTTP or of Ray.
"""

import asyncio
import contextvars
import logging
from contextlib import aclosing

import numpy as np

from gatefold.errors import GatefoldError
from gatefold.generator.originality import NewCover
from gatefold.records import Match
from serve.active_release import Rota
from serve.api.problems import internal_error
from serve.interfaces import GenerationResult, Query, Stages
from serve.jobs.jobs import Generated, Idempotency, Job, JobTable, Order

logger = logging.getLogger(__name__)


class JobRunner:
    """The table of jobs and the tasks that run them."""

    def __init__(self, rota: Rota, jobs: JobTable) -> None:
        self.jobs = jobs
        self._rota = rota
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def submit(self, stages: Stages, order: Order, idempotency: Idempotency | None) -> Job:
        """The job of this order, begun unless its key began it before. Raises: Overloaded, IdempotencyConflict."""
        job, new = await self.jobs.create(order, idempotency)
        if new:
            # An empty context, as a job outlives its request: Serve cancels what carries the context of a lost one.
            task = contextvars.Context().run(asyncio.create_task, self._run(stages, job))
            self._rota.keep(stages)
            self._tasks[job.job_id] = task
            task.add_done_callback(lambda _: self._tasks.pop(job.job_id, None))
            task.add_done_callback(lambda _: self._rota.let_go(stages))
        return job

    async def cancel(self, job_id: str) -> Job:
        """The job, cancelled if it had not ended. Raises: UnknownJob."""
        job = await self.jobs.cancel(job_id)
        if (task := self._tasks.get(job_id)) is not None and job.state == "cancelled":
            task.cancel()
        return job

    async def _run(self, stages: Stages, job: Job) -> None:
        try:
            generated = await self._generate(stages, job)
        except GatefoldError as error:
            logger.warning("job %s failed: %s: %s", job.job_id, error.code, error.message)
            await self.jobs.fail(job.job_id, error)
        except Exception:
            logger.exception("job %s failed", job.job_id)
            await self.jobs.fail(job.job_id, internal_error())
        else:
            await self.jobs.succeed(job.job_id, generated)

    async def _generate(self, stages: Stages, job: Job) -> Generated:
        result: GenerationResult | None = None
        async with aclosing(stages.generator.generate(job.order.job)) as generating:
            async for news in generating:
                if isinstance(news, GenerationResult):
                    result = news
                else:
                    await self.jobs.advance(job.job_id, news)
        if result is None:
            raise internal_error()
        return Generated(result, await _closest(stages, result))


async def _closest(stages: Stages, result: GenerationResult) -> tuple[Match | None, ...]:
    """For each new cover, the cover of the catalogue nearest to it in the cover tower's space."""
    new = {place: cover for place, cover in enumerate(result.covers) if isinstance(cover, NewCover)}
    found: list[Match | None] = [None] * len(result.covers)
    if new:
        pixels = np.stack([cover.generated.pixels for cover in new.values()])
        embeddings = await stages.encoder.embed_covers(pixels)
        encoder = stages.release.encoder.fingerprint
        nearest = await asyncio.gather(*(stages.retriever.search(Query(e, encoder, k=1)) for e in embeddings))
        for place, matches in zip(new, nearest, strict=True):
            found[place] = matches[0] if matches else None
    return tuple(found)
