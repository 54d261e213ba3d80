"""Sees jobs through: each gets painted in its turn, its progress goes into the table, and what it cancels stops.

Every job has one asyncio task, which waits at the painter's door; so the painter's replicas set how many run at once,
and the table's positions are the order at that door. A job is seen through by the stages that took its order, also when
those of another release have come on duty meanwhile. Knows nothing of HTTP or of Ray.
"""

import asyncio
import contextvars
import logging
from contextlib import aclosing

import numpy as np

from gatefold.errors import GatefoldError
from gatefold.records import Match
from serve.jobs import Idempotency, Job, JobTable, Order, Painted
from serve.problems import internal_error
from serve.rota import Rota
from serve.stages import Commission, Pictures, Query, Stages

logger = logging.getLogger(__name__)


class Studio:
    """The table of jobs and those who work on it."""

    def __init__(self, rota: Rota, jobs: JobTable) -> None:
        self.jobs = jobs
        self._rota = rota
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def submit(self, stages: Stages, order: Order, idempotency: Idempotency | None) -> Job:
        """The job of this order, begun unless its key began it before. Raises: Overloaded, IdempotencyConflict."""
        job, new = await self.jobs.create(order, idempotency)
        if new:
            # An empty context, as a job outlives its request: Serve cancels what carries the context of a lost one.
            task = contextvars.Context().run(asyncio.create_task, self._see_through(stages, job))
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

    async def _see_through(self, stages: Stages, job: Job) -> None:
        try:
            painted = await self._paint(stages, job)
        except GatefoldError as error:
            logger.warning("job %s failed: %s: %s", job.job_id, error.code, error.message)
            await self.jobs.fail(job.job_id, error)
        except Exception:
            logger.exception("job %s failed", job.job_id)
            await self.jobs.fail(job.job_id, internal_error())
        else:
            await self.jobs.succeed(job.job_id, painted)

    async def _paint(self, stages: Stages, job: Job) -> Painted:
        order = job.order
        neighbours = await stages.retriever.cover_embeddings([match.track.song_id for match in order.matches])
        commission = Commission(
            order.song_embedding, neighbours, order.seeds, order.num_inference_steps, order.guidance_scale
        )
        pixels: Pictures | None = None
        async with aclosing(stages.painter.paint(commission)) as painting:
            async for news in painting:
                if isinstance(news, np.ndarray):
                    pixels = news
                else:
                    await self.jobs.advance(job.job_id, news)
        if pixels is None:
            raise internal_error()
        return Painted(pixels, tuple(await _closest(stages, pixels)))


async def _closest(stages: Stages, pixels: Pictures) -> list[Match | None]:
    """For each new cover, the cover of the catalogue most like it."""
    embeddings = await stages.encoder.embed_covers(pixels)
    encoder = stages.release.encoder.fingerprint
    found = await asyncio.gather(*(stages.retriever.search(Query(embedding, encoder, k=1)) for embedding in embeddings))
    return [matches[0] if matches else None for matches in found]
