import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable

import pytest

from gatefold.errors import DatabaseUnavailable, LeaseLost, Unavailable
from serve.claiming import ClaimLoop, until_written

LONG_S = 600.0
"""between two looks: what a test waits for has come before"""


class Work:
    """Numbers to be claimed, at most `room` at once, and what became of them."""

    def __init__(self, count: int, room: int = 2, poll_s: float = LONG_S) -> None:
        self.waiting, self.room = deque(range(count)), room
        self.done: list[int] = []
        self.handed_back: list[int] = []
        self.at_once = 0
        self.errors: deque[Exception] = deque()  # that claiming raises, one after the other
        self.hold = asyncio.Event()
        self.loop = ClaimLoop("numbers", str, self.claim, self.run, poll_s)

    async def claim(self) -> list[int]:
        await asyncio.sleep(0)  # what is freed here must not be overlooked
        if self.errors:
            raise self.errors.popleft()
        room = self.room - len(self.loop.in_hand)
        return [self.waiting.popleft() for _ in range(min(room, len(self.waiting)))]

    async def run(self, number: int) -> None:
        self.at_once = max(self.at_once, len(self.loop.in_hand))
        try:
            await self.hold.wait()
        except asyncio.CancelledError:
            self.handed_back.append(number)
            raise
        self.done.append(number)
        if number == 3:
            raise ValueError("three")


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.001)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def all_of_it() -> None:
        await test()

    asyncio.run(all_of_it())


def test_claims_as_much_as_there_is_room_for_and_more_as_soon_as_one_has_ended() -> None:
    async def test() -> None:
        work = Work(50)
        work.hold.set()
        work.loop.start()
        await until(lambda: len(work.done) == 50)
        assert sorted(work.done) == list(range(50))
        assert work.at_once == 2
        await work.loop.close()
        assert work.loop.in_hand == []

    run(test)


def test_closing_lets_each_claim_be_handed_back_and_claims_no_more() -> None:
    async def test() -> None:
        work = Work(5)
        work.loop.start()
        await until(lambda: len(work.loop.in_hand) == 2)
        await work.loop.close()
        assert (sorted(work.handed_back), list(work.waiting), work.loop.in_hand) == ([0, 1], [2, 3, 4], [])

    run(test)


def test_what_was_claimed_while_the_loop_was_closed_is_handed_back_too() -> None:
    async def test() -> None:
        work = Work(2)
        work.loop.start()
        await asyncio.sleep(0)  # it is claiming now
        await work.loop.close()
        assert sorted(work.handed_back) + list(work.waiting) == [0, 1]

    run(test)


def test_woken_it_claims_what_has_come_since() -> None:
    async def test() -> None:
        work = Work(0)
        work.hold.set()
        work.loop.start()
        await asyncio.sleep(0.05)  # it has found nothing, and waits
        work.waiting.append(7)
        work.loop.wake()
        await until(lambda: work.done == [7])
        await work.loop.close()

    run(test)


def test_a_loop_that_never_began_is_closed_too() -> None:
    run(lambda: Work(1).loop.close())


@pytest.mark.parametrize("error", [Unavailable("away"), ValueError("odd")])
def test_goes_on_after_it_could_not_claim(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        work = Work(3, poll_s=0.001)
        work.errors.append(error)
        work.hold.set()
        work.loop.start()
        await until(lambda: len(work.done) == 3)
        await work.loop.close()

    run(test)
    assert "no numbers can be claimed now" in caplog.text
    assert str(error) in caplog.text


def test_what_a_task_raises_is_in_the_log_and_ends_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        work = Work(6)
        work.hold.set()
        work.loop.start()
        await until(lambda: len(work.done) == 6)
        await work.loop.close()

    run(test)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "three"
    assert record.getMessage() == "numbers: what came of 3 was not written down"


def test_a_write_is_repeated_while_the_database_is_away_and_for_nothing_else() -> None:
    answers = deque([DatabaseUnavailable("away"), DatabaseUnavailable("away"), None, LeaseLost("gone")])

    async def write() -> None:
        if (answer := answers.popleft()) is not None:
            raise answer

    run(lambda: until_written(write, 0.001))
    assert len(answers) == 1
    with pytest.raises(LeaseLost):
        run(lambda: until_written(write, 0.001))
