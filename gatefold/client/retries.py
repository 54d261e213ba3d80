"""When a call is tried again, and after how long. Knows neither sockets nor clocks."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from gatefold.client.errors import NO_ROUTES, ApiError, ClientError, NoAnswer

RETRIED = frozenset({408, 425, 429, 502, 503, 504})
"""statuses that pass by themselves"""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after how long. What may be repeated at all is said by each request."""

    attempts: int = 6
    """at most, the first among them"""
    first_s: float = 0.5
    """seconds before the second attempt at most; doubled before each later one"""
    longest_s: float = 20.0
    """seconds before an attempt at most, where the endpoint names no time"""
    retry_after_max_s: float = 60.0
    """a Retry-After of more seconds is not waited for: the error is raised, with `retry_after`"""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts = {self.attempts}: at least 1")
        for name in ("first_s", "longest_s", "retry_after_max_s"):
            value: float = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} = {value}: a number of seconds, at least 0")

    def pause(self, failures: int, error: ClientError, uniform: Callable[[float, float], float]) -> float | None:
        """Seconds to wait before the next attempt; None where there is none.

        Between half and all of a time that doubles, so that many callers who failed together do not come back
        together; after a Retry-After, never sooner than it says.

        Args:
            failures: attempts that failed so far, this one among them.
            uniform: draws a number between two.
        """
        passes = isinstance(error, NoAnswer) or (
            isinstance(error, ApiError) and (error.status in RETRIED or error.code == NO_ROUTES)
        )
        if not passes or failures >= self.attempts:
            return None
        step = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 32))
        asked = error.retry_after if isinstance(error, ApiError) else None
        if asked is None:
            return uniform(step / 2, step)
        return None if asked > self.retry_after_max_s else asked + uniform(0.0, step / 2)


def draw(low: float, high: float) -> float:
    """A number between two, at random."""
    return random.uniform(low, high)
