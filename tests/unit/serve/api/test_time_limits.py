import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("header", "seconds"), [("90", 90), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("1h1s", 3601), (" 7 ", 7)]
)
def test_a_time_limit_is_seconds_or_a_duration(endpoint: Callable[..., Any], header: str, seconds: float) -> None:
    e = endpoint()
    e.generator.hold = True
    job = e.client.post("/v1/covers", json={"song_id": "t3"}, headers={"Cancel-After": header}).json()
    assert _seconds(job["cancel_at"]) - _seconds(job["created_at"]) == pytest.approx(seconds)


@pytest.mark.parametrize("header", ["0", "", "soon", "-5", "5 m", "5d", "1m1h", "169h", "1.5", "٣"])
def test_a_time_limit_that_is_none_is_refused(endpoint: Callable[..., Any], header: str) -> None:
    headers = {"Cancel-After": header.encode()}
    answer = endpoint().client.post("/v1/covers", json={"song_id": "t3"}, headers=headers)
    assert answer.status_code == 422
    assert "must be seconds, 1 to 604800, or a duration" in answer.json()["detail"]


def test_a_job_that_is_not_done_in_time_is_cancelled_and_its_generator_stops(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    path = e.client.post("/v1/covers", json={"song_id": "t3"}, headers={"Cancel-After": "1"}).headers["location"]
    for _ in range(300):
        if (job := e.client.get(path).json())["state"] == "cancelled" and e.generator.stopped:
            break
        time.sleep(0.01)
    assert (job["state"], e.generator.stopped) == ("cancelled", 1)


def test_a_job_that_waits_says_when_to_look_again(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    waits = e.client.post("/v1/covers", json={"song_id": "t3"})
    assert (waits.status_code, int(waits.headers["retry-after"])) == (202, 5)
    e.generator.hold = False
    done = e.client.post("/v1/covers", json={"song_id": "t3", "n": 1}, headers={"Prefer": "wait=10"})
    assert (done.status_code, "retry-after" in done.headers) == (200, False)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
