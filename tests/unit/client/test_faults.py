"""The clients against a server that refuses, redirects, breaks off and hangs."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from typing import Any

import pytest

from gatefold.client import AsyncClient, Client, RetryPolicy
from gatefold.client.errors import (
    EndpointFailed,
    EndpointUnavailable,
    JobFailed,
    JobUnfinished,
    KeyRefused,
    NoAnswer,
    NotThere,
    RedirectRefused,
    TooManyRequests,
    UnexpectedAnswer,
)
from tests.scripted_server import Reply, Script, events, problem, scripted

QUICK = RetryPolicy(attempts=3, first_s=0.02, longest_s=0.05)
LIVE = Reply(body=b'{"status": "live"}')
UNSET = (
    "novelty", "source_song_ids", "palette_from", "guidance_scale", "num_inference_steps", "strength", "adapter",
)  # fmt: skip
BUSY = problem(503, "unavailable", Retry_After="0")


def job(state: str = "running", progress: float = 0.5, **values: Any) -> dict[str, Any]:
    return {
        "job_id": "j1", "state": state, "position": None, "progress": progress, "created_at": "2026-01-01T00:00:00Z",
        "finished_at": None, "release": "r1", "matches": [], "images": [], "refused": [], "problem": None,
        "request": {"n": 1, "seed": 0, "size": 64, **dict.fromkeys(UNSET)}, **values,
    }  # fmt: skip


def answer(**values: Any) -> Reply:
    return Reply(body=json.dumps(job(**values)).encode())


def client(script: Script, **options: Any) -> Client:
    return Client(script.url, retries=QUICK, **options)


def ask(script: Script, method: str, *arguments: Any, **options: Any) -> Any:
    with client(script, **options) as made:
        return attrgetter(method)(made)(*arguments)


def ask_async(script: Script, method: str, *arguments: Any, **options: Any) -> Any:
    async def go() -> Any:
        async with AsyncClient(script.url, retries=QUICK, **options) as made:
            return await attrgetter(method)(made)(*arguments)

    return asyncio.run(go())


both = pytest.mark.parametrize("call", [ask, ask_async])


@both
def test_a_read_is_repeated_after_503_429_and_a_connection_that_breaks(call: Any) -> None:
    with scripted(BUSY, Reply(cut=True), LIVE) as script:
        assert call(script, "health", "live").status == "live"
    assert len(script.received) == 3


@both
def test_attempts_are_bounded_and_the_last_error_is_raised(call: Any) -> None:
    with scripted(BUSY) as script:
        with pytest.raises(EndpointUnavailable, match="503 unavailable: no"):
            call(script, "health")
        assert len(script.received) == QUICK.attempts


@both
def test_a_retry_after_is_waited_for(call: Any) -> None:
    with scripted(problem(429, "overloaded", Retry_After="1"), LIVE) as script:
        began = time.monotonic()
        call(script, "health")
        assert time.monotonic() - began >= 1


@both
def test_a_retry_after_that_is_too_long_is_raised_at_once_with_its_seconds(call: Any) -> None:
    with scripted(problem(429, "overloaded", Retry_After="600")) as script:
        with pytest.raises(TooManyRequests) as refused:
            call(script, "health")
        assert refused.value.retry_after == 600
        assert len(script.received) == 1


@both
def test_a_search_is_never_sent_twice(call: Any) -> None:
    for fault, error in ((BUSY, EndpointUnavailable), (Reply(cut=True), NoAnswer)):
        with scripted(fault) as script:
            with pytest.raises(error):
                call(script, "search", b"song")
            assert len(script.received) == 1


@both
def test_a_job_is_created_again_with_the_same_key_and_the_same_song(call: Any) -> None:
    with scripted(BUSY, Reply(cut=True), answer()) as script:
        made = call(script, "generate", b"song")
    first, *others = script.received
    assert (made.job_id, len(others)) == ("j1", 2)
    assert {one.headers["Idempotency-Key"] for one in script.received} == {first.headers["Idempotency-Key"]}
    assert all(one.body.count(b"\r\nsong\r\n") == 1 for one in script.received)


@both
def test_a_batch_is_sent_again_with_the_same_key_and_the_same_lines(call: Any) -> None:
    made = {
        "batch_id": "b1", "state": "running", "lines": 1, "created_at": "2026-01-01T00:00:00Z", "finished_at": None,
        "ends_at": "2026-01-02T00:00:00Z", "expires_at": None, "output_url": "/o", "errors_url": "/e",
        "counts": {"waiting": 1, "running": 0, "succeeded": 0, "failed": 0, "skipped": 0},
    }  # fmt: skip
    with scripted(Reply(cut=True), BUSY, Reply(status=202, body=json.dumps(made).encode())) as script:
        assert call(script, "batches.create", [{"custom_id": "a"}]).batch_id == "b1"
    assert len({one.headers["Idempotency-Key"] for one in script.received}) == 1
    assert [one.body for one in script.received] == [b'{"custom_id": "a"}\n'] * 3


@both
def test_an_error_that_stays_is_raised_at_once(call: Any) -> None:
    for fault, error in (
        (problem(500, "internal_error"), EndpointFailed), (problem(404, "unknown_job"), NotThere),
        (problem(401, "unauthorized"), KeyRefused),
    ):  # fmt: skip
        with scripted(fault) as script:
            with pytest.raises(error):
                call(script, "job", "j1")
            assert len(script.received) == 1


@both
def test_a_server_that_hangs_is_not_waited_for(call: Any) -> None:
    with scripted(Reply(body=b"", hangs=True)) as script:
        began = time.monotonic()
        with pytest.raises(NoAnswer, match=r"GET /v1/health/ready: no answer of '127\.0\.0\.1'"):
            call(script, "health", timeout_s=0.2)
        assert time.monotonic() - began < 5
        assert len(script.received) == QUICK.attempts


@both
def test_nobody_listening_is_no_answer(call: Any) -> None:
    with scripted(LIVE) as script:
        pass
    with pytest.raises(NoAnswer):
        call(script, "health")


@both
def test_redirects_are_not_followed_and_the_key_stays_with_its_origin(call: Any) -> None:
    with (
        scripted(LIVE) as elsewhere,
        scripted(Reply(307, headers={"Location": elsewhere.url + "/v1/x"})) as script,
        pytest.raises(RedirectRefused, match=f"redirects to '{elsewhere.url}"),
    ):
        call(script, "health", api_key="secret")
    assert elsewhere.received == []
    assert script.received[0].headers["Authorization"] == "Bearer secret"


@both
def test_an_answer_of_another_service_is_said_to_be_one(call: Any) -> None:
    for body in (b"<html>", b"[]", b'{"job_id": 5}'):
        with scripted(Reply(body=body)) as script, pytest.raises(UnexpectedAnswer, match="no gatefold endpoint"):
            call(script, "job", "j1")


@both
def test_fields_that_are_not_known_yet_are_kept(call: Any) -> None:
    with scripted(replace(answer(cost=3, queued_s=1.5), headers={"Idempotent-Replayed": "true"})) as script:
        made = call(script, "generate", b"song")
    assert (made.status.queued_s, made.status.model_extra, made.replayed) == (1.5, {"cost": 3}, True)


# ---- events ---------------------------------------------------------------------------------------------------------


def followed(script: Script, **options: Any) -> list[float]:
    with client(script, **options) as made:
        return [status.progress for status in made.job("j1").events()]


def followed_async(script: Script) -> list[float]:
    async def go() -> list[float]:
        async with AsyncClient(script.url, retries=QUICK) as made:
            return [status.progress async for status in (await made.job("j1")).events()]

    return asyncio.run(go())


both_follow = pytest.mark.parametrize("follow", [followed, followed_async])


@both_follow
def test_a_stream_that_breaks_off_is_resumed_behind_the_last_event(follow: Callable[[Script], list[float]]) -> None:
    streams = [
        events((1, job(progress=0.1)), (2, job(progress=0.2))),
        events((3, job(progress=0.3)), cut=False),
        BUSY,
        events((2, job(progress=0.2)), (3, job(progress=0.3)), (4, job("succeeded", 1.0)), cut=False),
    ]
    with scripted(answer(), *streams) as script:
        assert follow(script) == [0.1, 0.2, 0.3, 1.0]
    sent = [one.headers.get("Last-Event-ID") for one in script.received[1:]]
    assert sent == [None, "2", "3", "3"]


@both_follow
def test_a_stream_that_never_brings_anything_is_given_up(follow: Callable[[Script], list[float]]) -> None:
    with scripted(answer(), events()) as script:
        with pytest.raises(NoAnswer):
            follow(script)
        assert len(script.received) == 1 + QUICK.attempts


@both_follow
def test_a_stream_that_always_brings_something_is_never_given_up(follow: Callable[[Script], list[float]]) -> None:
    streams = [events((number, job(progress=number / 10))) for number in range(1, 10)]
    with scripted(answer(), *streams, events((10, job("succeeded", 1.0)))) as script:
        assert follow(script) == [number / 10 for number in range(1, 11)]


@both_follow
def test_a_job_whose_last_event_was_seen_has_no_more(follow: Callable[[Script], list[float]]) -> None:
    with scripted(answer(), Reply(204, b"")) as script:
        assert follow(script) == []


def test_a_silent_stream_is_taken_for_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatefold.client.endpoint.SILENCE_MAX_S", 0.2)
    with scripted(
        answer(), replace(events((1, job()), cut=False), hangs=True), events((2, job("succeeded", 1.0)))
    ) as script:
        assert followed(script) == [0.5, 1.0]
    assert script.received[2].headers["Last-Event-ID"] == "1"


def test_who_stops_following_leaves_no_connection_behind() -> None:
    with scripted(answer(), replace(events((1, job())), hangs=True, cut=False)) as script, client(script) as made:
        stream = made.job("j1").events()
        assert next(stream).progress == 0.5
        stream.close()  # type: ignore[attr-defined]
        script.replies[:] = [LIVE]
        assert made.health().status == "live"


# ---- waiting --------------------------------------------------------------------------------------------------------


def waited(script: Script, timeout_s: float | None, seen: list[float]) -> Any:
    with client(script) as made:
        return made.job("j1").wait(timeout_s, lambda status: seen.append(status.progress))


def waited_async(script: Script, timeout_s: float | None, seen: list[float]) -> Any:
    async def go() -> Any:
        async with AsyncClient(script.url, retries=QUICK) as made:
            return await (await made.job("j1")).wait(timeout_s, lambda status: seen.append(status.progress))

    return asyncio.run(go())


both_wait = pytest.mark.parametrize("wait", [waited, waited_async])


@both_wait
def test_each_change_is_reported_once_and_a_fault_on_the_way_does_not_end_the_wait(wait: Any) -> None:
    seen: list[float] = []
    replies = [answer(progress=p) for p in (0.1, 0.1, 0.5)]
    with scripted(*replies, BUSY, answer(state="succeeded", progress=1.0)) as script:
        assert wait(script, None, seen).status.state == "succeeded"
    assert seen == [0.1, 0.5, 1.0]


@both_wait
def test_a_wait_ends_in_time_and_the_job_goes_on(wait: Any) -> None:
    for reply in (answer(), Reply(body=b"", hangs=True)):
        with scripted(answer(), reply) as script:
            began = time.monotonic()
            with pytest.raises(JobUnfinished, match=r"job 'j1' is still running after 0\.5 s") as unfinished:
                wait(script, 0.5, [])
            assert time.monotonic() - began < 3
        assert unfinished.value.status.progress == 0.5
        assert {one.method for one in script.received} == {"GET"}


@both_wait
def test_a_job_that_failed_says_why(wait: Any) -> None:
    why = {"title": "T", "status": 422, "detail": "no sources", "code": "no_sources", "instance": "/v1/covers/j1"}
    said = "job 'j1' failed: no_sources: no sources"
    with scripted(answer(), answer(state="failed", problem=why)) as script, pytest.raises(JobFailed, match=said):
        wait(script, None, [])


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), float("inf")])
def test_a_wait_of_no_length_is_refused(timeout_s: float) -> None:
    with scripted(answer()) as script, pytest.raises(ValueError, match="timeout_s"):
        waited(script, timeout_s, [])
