"""Clients of the deployments: calls that survive the death of a replica, and errors that arrive as they were raised.

A call that changes nothing is made again, up to three times, when the replica that held it dies; but not one that
carries an uploaded file, which may be what it died of. An error of ours that crossed a handle comes back wrapped in
Ray's own; what is raised here is the one inside, since the text of the wrapper is the remote traceback. Any other
remote error goes to the log, and the caller learns only that something failed.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from gatefold.errors import GatefoldError, IndexNotReady, Overloaded, Unavailable
from gatefold.index.interface import IndexedTrack, MatchColumns
from gatefold.records import Match
from serve.api.problems import RETRY_AFTER_S, internal_error
from serve.interfaces import (
    EncoderFacts,
    GenerationJob,
    GenerationResult,
    GeneratorFacts,
    IndexFacts,
    Pictures,
    Query,
    SongEmbedding,
    SongQuery,
    Vector,
)
from serve.observability.carried import Carried, as_argument, carrying, current

logger = logging.getLogger(__name__)

ATTEMPTS = 3
READY_FOR_S = 1.0
"""seconds that readiness holds before the controller is asked again"""
CAPACITY_FOR_S = 2.0
"""seconds that the number of a generator's replicas holds before the controller is asked again"""
REMOTE_ERRORS = (RayActorError, RayTaskError, BackPressureError, DeploymentUnavailableError)


class EncoderHandle:
    """SongEncoding, by the deployment SongEncoder."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._facts: EncoderFacts | None = None

    async def encode_song(self, data: bytes, name: str, spectrogram: bool) -> SongEmbedding:
        """As `SongEncoding.encode_song`."""
        # once: the uploaded bytes may be what the replica died of, and would end the next one too
        encoded: SongEmbedding = await call(self._handle.encode_song, data, name, spectrogram, attempts=1)
        return encoded

    async def embed_covers(self, pixels: Pictures) -> Vector:
        """As `SongEncoding.embed_covers`: float32 [n, D].

        Args:
            pixels: uint8 [n, 3, S, S], RGB.
        """
        embeddings: Vector = await call(self._handle.embed_covers, pixels)
        return embeddings

    async def describe(self) -> EncoderFacts:
        """As `SongEncoding.describe`; asked for once."""
        self._facts = self._facts or await call(self._handle.describe)
        return self._facts


class RetrieverHandle:
    """CoverRetrieval, by the deployment CoverRetriever.

    Searches that arrive together are sent in one call, since a call costs several times what a search does.

    Args:
        max_batch_size: searches in one call.
        batch_wait_timeout_s: seconds that the first of them waits for others.
        max_concurrent_batches: calls under way at once; no more replicas than that are ever busy.
    """

    def __init__(
        self,
        handle: DeploymentHandle,
        *,
        max_batch_size: int,
        batch_wait_timeout_s: float,
        max_concurrent_batches: int,
    ) -> None:
        self._handle = handle
        self._facts: IndexFacts | None = None
        batched = serve.batch(
            max_batch_size=max_batch_size,
            batch_wait_timeout_s=batch_wait_timeout_s,
            max_concurrent_batches=max_concurrent_batches,
        )
        # a queue for each handle: a class would share one of all releases
        self._search_batched = batched(self._search_batch)

    async def search(self, query: Query | SongQuery) -> list[Match]:
        """As `CoverRetrieval.search`."""
        answer: MatchColumns | GatefoldError = await self._search_batched(query, current())
        if isinstance(answer, GatefoldError):
            raise answer
        return answer.matches()

    async def _search_batch(
        self, queries: list[Query | SongQuery], carried: list[Carried]
    ) -> list[MatchColumns | GatefoldError]:
        with carrying(carried[0]):  # one call has one trace: of those that go together, the first one's
            answers: list[MatchColumns | GatefoldError] = await call(self._handle.search, queries)
        return answers

    async def track(self, song_id: str) -> IndexedTrack:
        """As `CoverRetrieval.track`."""
        track: IndexedTrack = await call(self._handle.track, song_id)
        return track

    async def describe(self) -> IndexFacts:
        """As `CoverRetrieval.describe`; asked for once."""
        self._facts = self._facts or await call(self._handle.describe)
        return self._facts


class GeneratorHandle:
    """CoverGeneration, by the deployment CoverGenerator."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)
        self._facts: GeneratorFacts | None = None
        self._replicas, self._counted_until = 0, 0.0

    async def generate(self, job: GenerationJob) -> AsyncGenerator[float | GenerationResult, None]:
        """As `CoverGeneration.generate`."""
        for attempt in range(1, ATTEMPTS + 1):
            response = self._streaming.generate.remote(job, **as_argument())
            finished = False
            try:
                async for item in response:
                    yield item
                finished = True
                return
            except RayActorError as error:  # generated again: the seeds are part of the job
                finished = True
                if attempt == ATTEMPTS:
                    raise to_domain_error(error) from None
            except REMOTE_ERRORS as error:
                finished = True
                raise to_domain_error(error) from None
            finally:
                if not finished:
                    response.cancel()

    async def describe(self) -> GeneratorFacts:
        """Asked once: the replica that generates answers nothing else meanwhile, and a release never changes."""
        self._facts = self._facts or await call(self._handle.describe)
        return self._facts

    async def capacity(self) -> int:
        """Its running replicas, each of which generates one job at a time."""
        if time.monotonic() > self._counted_until:
            self._counted_until = time.monotonic() + CAPACITY_FOR_S
            applications = (await asyncio.to_thread(serve.status)).applications
            known = applications[self._handle.app_name].deployments if self._handle.app_name in applications else {}
            state = known.get(self._handle.deployment_name)
            self._replicas = state.replica_states.get("RUNNING", 0) if state else 0
        return self._replicas


class ServeReadiness:
    """Readiness, as Serve's controller sees it: every deployment of these applications has a running replica."""

    def __init__(self, *applications: str) -> None:
        self._applications = applications
        self._ready_until = 0.0

    async def check(self) -> None:
        """As `Readiness.check`."""
        if time.monotonic() < self._ready_until:  # many who ask at once cost the controller one question
            return
        known = (await asyncio.to_thread(serve.status)).applications
        deployments = [known[name].deployments if name in known else {} for name in self._applications]
        states = [one for found in deployments for one in found.items()]
        missing = sorted(name for name, state in states if not state.replica_states.get("RUNNING"))
        if missing or not all(deployments):
            raise IndexNotReady(f"no replica is running yet of: {', '.join(missing) or 'any deployment'}")
        self._ready_until = time.monotonic() + READY_FOR_S


async def call(method: Any, *arguments: object, attempts: int = ATTEMPTS) -> Any:
    """The answer of a method of an `observed` deployment, asked again when its replica dies.

    Args:
        attempts: 1 where the arguments may be what it dies of.

    Raises: the GatefoldError that the method raised; Unavailable, Overloaded; a bare GatefoldError for anything
    unforeseen.
    """
    for attempt in range(1, attempts + 1):
        try:
            return await method.remote(*arguments, **as_argument())
        except RayActorError as error:
            if attempt == attempts:
                raise to_domain_error(error) from None
        except REMOTE_ERRORS as error:
            raise to_domain_error(error) from None
    raise AssertionError("unreachable: the last attempt returns or raises")


def to_domain_error(error: Exception) -> GatefoldError:
    """The domain error that a failed call means."""
    inner = error.cause if isinstance(error, RayTaskError) else error
    if isinstance(inner, GatefoldError):
        return inner
    if isinstance(inner, BackPressureError):
        queued, allowed = inner.args[:2]
        waiting = f"{queued} uploaded songs wait for the encoder, at most {allowed}"
        return Overloaded(f"{waiting} (serve.songs_queued_max); try again later", RETRY_AFTER_S)
    if isinstance(inner, RayActorError | DeploymentUnavailableError):
        logger.error("no replica answered: %s", inner)
        return Unavailable("the replica that worked on this was lost; try again later")
    logger.error("a replica failed: %s", error)  # the remote traceback belongs here and nowhere else
    return internal_error()
