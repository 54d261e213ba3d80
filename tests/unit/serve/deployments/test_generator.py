import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gatefold.generator.interface import OnStep
from serve.deployments.generator import run_with_progress
from serve.interfaces import Pictures

MANY = 1_000_000
"""steps that take longer than any event loop is kept waiting"""
COVERS = np.zeros((2, 3, 8, 8), np.uint8)


def generating(steps: int, begun: list[int], pause: threading.Event | None = None) -> Callable[[OnStep], Pictures]:
    """Work of so many steps that writes down each it begins, and waits for `pause` before each."""

    def work(on_step: OnStep) -> Pictures:
        for step in range(1, steps + 1):
            if pause is not None:
                pause.wait(5)
            begun.append(step)
            on_step(step, steps)
        return COVERS

    return work


def test_progress_is_reported_from_nothing_to_all_and_then_the_covers() -> None:
    async def main() -> list[float | Pictures]:
        with ThreadPoolExecutor(1) as workers:
            return [item async for item in run_with_progress(generating(4, []), workers)]

    items = asyncio.run(main())
    assert items[:-1] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert items[-1] is COVERS


def test_closing_early_stops_the_work_within_a_step() -> None:
    begun: list[int] = []
    step = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as workers:
            news = run_with_progress(generating(MANY, begun, step), workers)
            assert await anext(news) == 0.0
            step.set()
            await anext(news)
            step.clear()  # or a slow machine might take all steps before it comes to close this
            await news.aclose()
            step.set()
        # leaving the block waits for the thread: had the work gone on, all of its steps would have begun

    asyncio.run(main())
    assert len(begun) < MANY


def test_cancelling_who_waits_stops_the_work_within_a_step() -> None:
    begun: list[int] = []
    hold = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as workers:

            async def follow() -> None:
                async for _ in run_with_progress(generating(1000, begun, hold), workers):
                    pass

            task = asyncio.create_task(follow())
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            hold.set()

    asyncio.run(main())
    assert begun == [1]


def test_work_that_nobody_waits_for_any_more_never_begins() -> None:
    first: list[int] = []
    second: list[int] = []
    hold = threading.Event()

    async def main() -> None:
        with ThreadPoolExecutor(1) as workers:
            ahead = run_with_progress(generating(1, first, hold), workers)
            await anext(ahead)
            waiting = asyncio.create_task(anext(run_with_progress(generating(1, second), workers)))
            await asyncio.sleep(0.02)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            hold.set()
            assert [item async for item in ahead][-1] is COVERS

    asyncio.run(main())
    assert (first, second) == ([1], [])


def test_an_error_of_the_work_is_raised_to_who_waits() -> None:
    def work(on_step: OnStep) -> Pictures:
        on_step(1, 2)
        raise ValueError("canvas torn")

    async def main() -> None:
        with ThreadPoolExecutor(1) as workers:
            async for _ in run_with_progress(work, workers):
                pass

    with pytest.raises(ValueError, match="canvas torn"):
        asyncio.run(main())
