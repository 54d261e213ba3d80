"""The generator as a deployment: paints one commission at a time, tells how far it is, and stops within a step when
nobody waits for it any more. Knows nothing of jobs, of HTTP, or of where the commission comes from."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from contextlib import aclosing

import numpy as np

from gatefold.errors import WrongModel
from gatefold.storage.generators import load_generator
from serve import replica
from serve.stages import Commission, PainterFacts, Pictures

OnStep = Callable[[int, int], None]
"""told (steps done, steps in all); raises to stop"""


class _PutDownError(Exception):
    """Raised inside the diffusion loop to leave it."""


class CoverGenerator:
    """One generator bundle.

    Args:
        encoder_fingerprint: of the encoder whose embeddings will be handed in.
    """

    def __init__(self, bundle_uri: str, encoder_fingerprint: str, endpoint_url: str | None) -> None:
        replica.enter(endpoint_url)
        self._pipeline = load_generator(bundle_uri, replica.granted_device())
        trained_on = self._pipeline.config.encoder_fingerprint
        if trained_on != encoder_fingerprint:
            raise WrongModel(
                f"the generator was trained on encoder '{trained_on}', the release has '{encoder_fingerprint}'; "
                "train the generator again and publish a release"
            )
        self._workers = replica.workers(1, 1)

    def reconfigure(self, tuning: dict[str, int]) -> None:
        """`user_config`: threads of torch."""
        self._workers = replica.workers(1, tuning["threads"])  # one worker: one painting at a time, whatever arrives

    async def describe(self) -> PainterFacts:
        config = self._pipeline.config
        return PainterFacts(config.neighbours, config.num_inference_steps, config.guidance_scale)

    async def paint(self, commission: Commission) -> AsyncGenerator[float | Pictures, None]:
        """The share of steps done, 0.0 when it begins; last the covers, uint8 [n, 3, S, S]."""

        def work(on_step: OnStep) -> Pictures:
            return self._pipeline.paint(
                np.array(commission.song_embedding),  # copies, as torch warns of what Ray hands over: it is read-only
                np.array(commission.neighbour_embeddings),
                seeds=commission.seeds,
                num_inference_steps=commission.num_inference_steps,
                guidance_scale=commission.guidance_scale,
                on_step=on_step,
            )

        async with aclosing(followed(work, self._workers)) as news:
            async for item in news:
                yield item


async def followed(work: Callable[[OnStep], Pictures], workers: Executor) -> AsyncGenerator[float | Pictures, None]:
    """The progress of work done on a thread, from 0.0 when it begins, and then what it gives.

    Closing this early (or cancelling who waits for it) makes the work's next call of `on_step` raise.
    """
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[float | Pictures | Exception] = asyncio.Queue()
    put_down = threading.Event()

    def tell(item: float | Pictures | Exception) -> None:
        loop.call_soon_threadsafe(news.put_nowait, item)

    def on_step(done: int, steps: int) -> None:
        if put_down.is_set():
            raise _PutDownError
        tell(done / steps)

    def run() -> None:
        if put_down.is_set():
            return
        tell(0.0)
        try:
            tell(work(on_step))
        except Exception as error:  # noqa: BLE001 - handed to the coroutine that waits, which raises it
            tell(error)

    workers.submit(run)
    try:
        while True:
            item = await news.get()
            if isinstance(item, Exception):
                raise item
            yield item
            if isinstance(item, np.ndarray):
                return
    finally:
        put_down.set()  # without effect when the work is done
