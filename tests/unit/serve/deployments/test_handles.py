import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError

from gatefold.config import CoverSettings
from gatefold.errors import GatefoldError, Overloaded, SilentAudio, Unavailable
from gatefold.generator.interface import GenerationRequest
from serve.deployments.handles import ATTEMPTS, EncoderHandle, GeneratorHandle, call
from serve.interfaces import GenerationJob, GeneratorFacts

JOB = GenerationJob(np.zeros(4, np.float32), None, None, [1], GenerationRequest(), None)
FACTS = GeneratorFacts("local-score", 100, frozenset({"size"}), 0.5, {}, CoverSettings())


def remote(error: Exception) -> RayTaskError:
    """The error as it looks when it has crossed a handle: wrapped, with the remote traceback for a text."""
    return RayTaskError("generate", "Traceback: secret at 10.0.0.7", error)


class Method:
    """A deployment's method that does in turn what the test set: raise, or return."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.calls = 0

    async def remote(self, *_: object) -> Any:
        self.calls += 1
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class Response:
    """A streaming response: some items, then perhaps an error."""

    def __init__(self, *items: Any) -> None:
        self._items = items
        self.cancelled = False

    async def __aiter__(self) -> AsyncIterator[Any]:
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            yield item

    def cancel(self) -> None:
        self.cancelled = True


class Generator:
    """A handle of a generator deployment."""

    def __init__(self, *responses: Response) -> None:
        self.responses = list(responses)
        self.describe = Method(FACTS)
        self.generate = self

    def options(self, *, stream: bool) -> "Generator":
        assert stream
        return self

    def remote(self, job: GenerationJob) -> Response:
        assert job is JOB
        return self.responses.pop(0)


async def generated(handle: Generator) -> list[Any]:
    return [item async for item in GeneratorHandle(handle).generate(JOB)]


def test_a_call_is_made_again_when_its_replica_dies() -> None:
    method = Method(ActorDiedError(), ActorDiedError(), "answer")
    assert asyncio.run(call(method)) == "answer"
    assert method.calls == ATTEMPTS


def test_a_call_whose_replicas_keep_dying_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="try again later"):
        asyncio.run(call(Method(*[ActorDiedError()] * ATTEMPTS)))


class Encoder:
    """A handle of an encoder deployment."""

    def __init__(self, *outcomes: Any) -> None:
        self.encode_song = Method(*outcomes)


def test_bytes_that_a_replica_dies_of_are_sent_to_no_other() -> None:
    encoder: Any = Encoder(ActorDiedError(), "encoded by the next one")
    with pytest.raises(Unavailable, match="try again later"):
        asyncio.run(EncoderHandle(encoder).encode_song(b"deadly", "a.wav", False))
    assert encoder.encode_song.calls == 1


def test_an_error_of_ours_arrives_as_it_was_raised_and_is_not_tried_again() -> None:
    ours = SilentAudio("song 'a': silent")
    method = Method(remote(ours))
    with pytest.raises(SilentAudio) as raised:
        asyncio.run(call(method))
    assert raised.value is ours
    assert method.calls == 1


def test_a_foreign_error_arrives_without_its_text() -> None:
    with pytest.raises(GatefoldError) as raised:
        asyncio.run(call(Method(remote(KeyError("secret at 10.0.0.7")))))
    assert raised.value.code == "internal_error"
    assert "10.0.0.7" not in str(raised.value)


def test_a_full_queue_says_when_to_come_back() -> None:
    with pytest.raises(Overloaded) as raised:
        asyncio.run(call(Method(BackPressureError(9, 8))))
    assert raised.value.retry_after_s > 0


def test_a_generating_begins_anew_when_its_replica_dies() -> None:
    lost, whole = Response(0.0, 0.5, ActorDiedError()), Response(0.0, 1.0, "covers")
    assert asyncio.run(generated(Generator(lost, whole))) == [0.0, 0.5, 0.0, 1.0, "covers"]
    assert not whole.cancelled


def test_a_generating_left_early_is_cancelled() -> None:
    response = Response(0.0, 0.5, "covers")

    async def main() -> None:
        generating = GeneratorHandle(Generator(response)).generate(JOB)
        await anext(generating)
        await generating.aclose()

    asyncio.run(main())
    assert response.cancelled


def test_a_generating_that_fails_raises_the_error_inside() -> None:
    with pytest.raises(SilentAudio, match="too quiet"):
        asyncio.run(generated(Generator(Response(0.0, remote(SilentAudio("too quiet"))))))


def test_the_generator_is_described_once_as_it_may_be_busy_later() -> None:
    async def main() -> list[GeneratorFacts]:
        handle = GeneratorHandle(Generator())
        return [await handle.describe(), await handle.describe()]

    assert asyncio.run(main()) == [FACTS] * 2
