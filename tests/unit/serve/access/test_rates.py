import time

import pytest

from serve.access.callers import Allowance, Caller
from serve.access.rates import RateLimits

SEARCH = frozenset({"search"})


def caller(name: str, most: int | None) -> Caller:
    return Caller(name, SEARCH, Allowance(requests_per_minute=most))  # type: ignore[arg-type]


def test_requests_beyond_the_limit_are_refused_and_those_of_others_are_not() -> None:
    rates = RateLimits()
    counted = [rates.count(caller("a", 3)) for _ in range(5)]
    assert [refusal is None for _, refusal in counted] == [True, True, True, False, False]
    assert [rate.remaining for rate, _ in counted if rate] == [2, 1, 0, 0, 0]
    assert rates.count(caller("b", 3))[1] is None


def test_the_headers_say_how_many_are_left_and_when_there_are_more() -> None:
    rate, _ = RateLimits().count(caller("a", 60))
    assert rate is not None
    assert rate.headers | {"RateLimit-Reset": ""} == {
        "RateLimit-Limit": "60", "RateLimit-Remaining": "59", "RateLimit-Reset": "", "RateLimit-Policy": "60;w=60"
    }  # fmt: skip
    assert 59 <= rate.reset_s <= 60


def test_after_the_wait_that_a_refusal_names_there_is_room_again_and_not_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rates, began = RateLimits(window_s=2), time.time()
    now = [began]
    monkeypatch.setattr(time, "time", lambda: now[0])
    rates.count(caller("a", 2))
    now[0] = began + 0.7
    rates.count(caller("a", 2))
    _, refusal = rates.count(caller("a", 2))
    assert refusal is not None
    assert refusal.retry_after_s == 2  # the first leaves the window in 1.3 s
    assert "API key 'a' may send 2 requests in 2 s and has" in refusal.message
    now[0] = began + 1.9
    assert rates.count(caller("a", 2))[1] is not None
    now[0] = began + 2.1
    assert rates.count(caller("a", 2))[1] is None


def test_a_caller_without_a_limit_is_not_counted() -> None:
    rates = RateLimits()
    assert [rates.count(caller("a", None)) for _ in range(100)] == [(None, None)] * 100
