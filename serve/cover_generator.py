"""The generator as a deployment: paints one commission at a time, tells how far it is, and stops within a step when
nobody waits for it any more. Knows nothing of jobs, of HTTP, or of where the commission comes from."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import numpy as np

from gatefold.errors import WrongModel
from gatefold.storage.models import load_generator
from serve import replica
from serve.stages import Commission, PainterFacts, Pictures


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

    async def paint(self, commission: Commission) -> AsyncIterator[float | Pictures]:
        """The share of steps done, 0.0 when it begins; last the covers, uint8 [n, 3, S, S]."""
        loop = asyncio.get_running_loop()
        news: asyncio.Queue[float | Pictures | Exception] = asyncio.Queue()
        put_down = threading.Event()

        def tell(item: float | Pictures | Exception) -> None:
            loop.call_soon_threadsafe(news.put_nowait, item)

        def on_step(done: int, steps: int) -> None:
            if put_down.is_set():
                raise _PutDownError
            tell(done / steps)

        def work() -> None:
            try:
                if not put_down.is_set():
                    tell(0.0)
                    tell(self._paint(commission, on_step))
            except Exception as error:  # noqa: BLE001 - handed to the coroutine that waits, which raises it
                tell(error)

        self._workers.submit(work)
        try:
            while True:
                item = await news.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, np.ndarray):
                    return
        finally:
            put_down.set()  # without effect when the painting is done

    def _paint(self, commission: Commission, on_step: Callable[[int, int], None]) -> Pictures:
        return self._pipeline.paint(
            np.array(commission.song_embedding),  # copies: what Ray hands over is read-only, which torch warns about
            np.array(commission.neighbour_embeddings),
            seeds=commission.seeds,
            num_inference_steps=commission.num_inference_steps,
            guidance_scale=commission.guidance_scale,
            on_step=on_step,
        )
