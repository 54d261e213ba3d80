"""The generator as a deployment: one job at a time, with its progress, stopped within a step when nobody waits for it.

The covers that may be sources are looked up when generation begins, so a song that was withdrawn while its job waited
contributes nothing. Knows nothing of HTTP or of the table of jobs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any, TypeVar

import numpy as np
from ray.serve.handle import DeploymentHandle

from gatefold.config import OriginalitySettings
from gatefold.errors import GatefoldError, WrongModel
from gatefold.generator.interface import OnStep, Pixels
from gatefold.generator.originality import NewCover, Refused
from gatefold.generator.sources import SourceRule, chosen
from gatefold.index.interface import MatchColumns
from gatefold.records import Match
from gatefold.storage.contents import optouts
from gatefold.storage.contents.optouts import OptOut
from gatefold.workspace import Workspace
from serve.deployments import replica
from serve.deployments.handles import call
from serve.interfaces import GenerationJob, GenerationResult, GeneratorFacts, Query, Vector
from serve.observability.carried import bound
from serve.observability.metrics import COVERS, GENERATE, REFUSALS
from serve.observability.observed import observed
from serve.observability.tracing import TraceArgs

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class _StoppedError(Exception):
    """Raised inside the generator to leave it."""


@observed
class CoverGenerator:
    """One generator bundle.

    Args:
        encoder_fingerprint: of the encoder whose embeddings will be given.
        encoder, retriever: of the same release.
        originality: how close a new cover may come to an existing one.
        cache_bytes: pixels of covers kept in memory.
    """

    def __init__(
        self,
        bundle_uri: str,
        workspace: str,
        encoder_fingerprint: str,
        encoder: DeploymentHandle,
        retriever: DeploymentHandle,
        originality: OriginalitySettings,
        cache_bytes: int,
        endpoint_url: str | None,
        traces: TraceArgs | None = None,
    ) -> None:
        # not above: diffusers takes seconds to import, and the processes that only deploy this do without it
        from gatefold.storage.models.generators import load_generator
        from gatefold.storage.models.new_covers import NewCovers

        replica.set_up(endpoint_url, traces)
        device = replica.granted_device()
        self._loaded = load_generator(bundle_uri, device)
        trained_on = self._loaded.model.encoder_fingerprint
        if trained_on != encoder_fingerprint:
            raise WrongModel(
                f"the generator was trained on encoder '{trained_on}', the release has '{encoder_fingerprint}'; "
                "train the generator again and publish a release"
            )
        self._encoder, self._retriever = encoder, retriever
        self._workspace, self._withdrawn = Workspace(workspace), optouts.NONE
        self._new_covers = NewCovers(
            self._loaded,
            self._workspace,
            limits=originality,
            cache_bytes=cache_bytes,
            device=device,
            nearest=lambda pixels, k: self._from_thread(self._nearest(pixels, k)),
            cover_uri=lambda song_id: self._from_thread(self._cover_uri(song_id)),
        )
        self._workers = replica.workers(1, 1)
        self._loop: asyncio.AbstractEventLoop | None = None

    def reconfigure(self, tuning: dict[str, int]) -> None:
        """`user_config`: threads of torch."""
        self._workers = replica.workers(1, tuning["threads"])  # one worker: one job at a time, whatever arrives

    async def describe(self) -> GeneratorFacts:
        """Kind and defaults of the generator, and what it may be asked for."""
        model, loaded = self._loaded.model, self._loaded
        return GeneratorFacts(
            model.kind, model.num_sources, model.accepts, model.novelty, loaded.sources, loaded.cover
        )

    async def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        """The share of steps done, 0.0 when it begins; last the result. Raises: NoSources; InputError."""
        self._loop = asyncio.get_running_loop()
        matches = await self._sources(job)
        embeddings = None
        if not self._loaded.model.reads_pixels:
            ids = [match.track.song_id for match in matches]
            embeddings = np.array(await call(self._retriever.cover_embeddings, ids))

        def work(on_step: OnStep) -> list[NewCover | Refused]:
            return self._new_covers.generate(
                np.array(job.song_embedding),  # a copy, as torch warns of what Ray passes: it is read-only
                matches,
                embeddings,
                seeds=job.seeds,
                request=job.request,
                on_step=on_step,
            )

        began = time.perf_counter()
        async with aclosing(run_with_progress(work, self._workers)) as news:
            async for item in news:
                if isinstance(item, float):
                    yield item
                    continue
                GENERATE.observe(time.perf_counter() - began)
                _count(item)
                yield GenerationResult(tuple(item), tuple(matches))

    async def _sources(self, job: GenerationJob) -> list[Match]:
        """The covers that may be sources now."""
        withdrawn: Mapping[str, OptOut] = await asyncio.to_thread(optouts.read_all, self._workspace, self._withdrawn)
        self._withdrawn = withdrawn
        gone = frozenset(optout.song_id for optout in withdrawn.values())
        filters = SourceRule(self._loaded.sources, gone).filters(job.song_id, job.artist)
        (found,) = await self._search(np.array(job.song_embedding)[None], self._loaded.model.num_sources, filters)
        return chosen(found, job.source_song_ids)

    async def _nearest(self, pixels: Pixels, k: int) -> list[list[str]]:
        embeddings: Vector = await call(self._encoder.embed_covers, pixels)
        found = await self._search(embeddings, k)
        return [[match.track.song_id for match in matches] for matches in found]

    async def _search(self, embeddings: Vector, k: int, *filters: Any) -> list[list[Match]]:
        queries = [Query(embedding, self._loaded.model.encoder_fingerprint, k, *filters) for embedding in embeddings]
        answers: list[MatchColumns | GatefoldError] = await call(self._retriever.search, queries)
        for answer in answers:
            if isinstance(answer, GatefoldError):
                raise answer
        return [answer.matches() for answer in answers if isinstance(answer, MatchColumns)]

    async def _cover_uri(self, song_id: str) -> str | None:
        known = await call(self._retriever.track, song_id)
        uri: str | None = known.cover_uri
        return uri

    def _from_thread(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """What a coroutine of the replica's event loop returns, waited for on the generator's thread."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


def _count(covers: Sequence[NewCover | Refused]) -> None:
    refused = [cover.code for cover in covers if isinstance(cover, Refused)]
    logger.info("%d covers generated, %d of them refused", len(covers), len(refused))
    COVERS.add(len(covers) - len(refused))
    for code in refused:
        REFUSALS.add(reason=code)


async def run_with_progress(
    work: Callable[[OnStep], Result], workers: Executor
) -> AsyncGenerator[float | Result, None]:
    """The progress of work done on a thread, from 0.0 when it begins, and then what it gives, which is no float.

    Closing this early (or cancelling the task that waits for it) makes the work's next call of `on_step` raise.
    """
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[float | Result | Exception] = asyncio.Queue()
    stopped = threading.Event()

    def report(item: float | Result | Exception) -> None:
        loop.call_soon_threadsafe(news.put_nowait, item)

    def on_step(done: int, steps: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        report(done / steps)

    def run() -> None:
        if stopped.is_set():
            return
        report(0.0)
        try:
            report(work(on_step))
        except Exception as error:  # noqa: BLE001 - handed to the coroutine that waits, which raises it
            report(error)

    workers.submit(bound(run))
    try:
        while True:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if not isinstance(item, float):
                return
    finally:
        stopped.set()  # without effect when the work is done
