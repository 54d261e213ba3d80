"""Requests a minute of each caller, counted over a moving window in the memory of this process. With several replicas
of the API each counts for itself. Knows no routes."""

import time
from dataclasses import dataclass
from math import ceil

from limits import RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from gatefold.errors import RateLimited
from serve.access.callers import Caller

WINDOW_S = 60


@dataclass(frozen=True)
class Rate:
    """How many requests a caller may send, and how many of them are left."""

    limit: int
    window_s: int
    remaining: int
    reset_s: int
    """seconds until it may send one more than now"""

    @property
    def headers(self) -> dict[str, str]:
        """As the IETF draft "RateLimit header fields for HTTP" (version 6) names them."""
        return {
            "RateLimit-Limit": str(self.limit),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": str(self.reset_s),
            "RateLimit-Policy": f"{self.limit};w={self.window_s}",
        }


class RateLimits:
    """Counts requests.

    Args:
        window_s: seconds in which a caller may send as many as it is allowed a minute.
    """

    def __init__(self, window_s: int = WINDOW_S) -> None:
        self._window_s = window_s
        self._limiter = MovingWindowRateLimiter(MemoryStorage())

    def count(self, caller: Caller) -> tuple[Rate | None, RateLimited | None]:
        """Counts a request: what is left then, None without a limit; and the error where it is one too many."""
        most = caller.allowed.requests_per_minute
        if most is None:
            return None, None
        item = RateLimitItemPerSecond(most, self._window_s)
        is_within = self._limiter.hit(item, caller.id)
        found = self._limiter.get_window_stats(item, caller.id)
        wait_s = max(1, ceil(found.reset_time - time.time()))
        rate = Rate(most, self._window_s, found.remaining, wait_s)
        if is_within:
            return rate, None
        return rate, RateLimited(
            f"API key '{caller.name}' may send {most} requests in {self._window_s} s and has; send the next in "
            f"{wait_s} s, or ask the operator for a key with more (requests a minute)",
            wait_s,
        )
