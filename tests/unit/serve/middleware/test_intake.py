"""The intake of bodies, with clients that send when the test says so."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError
from serve.api.problems import respond
from serve.middleware import intake
from serve.middleware.intake import BodyAdmissionMiddleware

LIMITS = ServeSettings(
    upload_max_bytes=500_000,
    form_fields_max_bytes=1_024,
    uploads_max_bytes=900_000,
    bodies_max=3,
    body_timeout_s=0.3,
    body_min_rate=1_000,
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with the length of the body, as the routes do: errors become problems."""
    try:
        answer = Response(str(len(await Request(scope, receive).body())))
    except GatefoldError as error:
        answer = respond(error, scope["path"])
    await answer(scope, receive, send)


class Client:
    """Sends a body of so many bytes, in parts, and then waits."""

    def __init__(self, size: int | None, *parts: bytes, pause_s: float = 0.0) -> None:
        self.parts, self.size, self.pause_s = list(parts), size, pause_s
        self.sent = 0
        self.status = 0
        self.headers: dict[bytes, bytes] = {}

    async def ask(self, app: BodyAdmissionMiddleware) -> "Client":
        length = (b"transfer-encoding", b"chunked") if self.size is None else (b"content-length", b"%d" % self.size)
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [length]}
        await app(scope, self._receive, self._send)
        return self

    async def _receive(self) -> Message:
        if not self.parts:
            await asyncio.sleep(60)
        await asyncio.sleep(self.pause_s)
        part = self.parts.pop(0)
        self.sent += len(part)
        return {"type": "http.request", "body": part, "more_body": self.size is None or self.sent < self.size}

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])


def ask(*clients: Client, then: Client | None = None, after_s: float = 0.02) -> None:
    """All at once, on one intake; `then` so much later."""

    async def main() -> None:
        guarded = BodyAdmissionMiddleware(app, LIMITS)
        asked: list[Coroutine[Any, Any, Client]] = [client.ask(guarded) for client in clients]
        running = [asyncio.ensure_future(one) for one in asked]
        if then is not None:
            await asyncio.sleep(after_s)
            await then.ask(guarded)
        await asyncio.gather(*running)

    asyncio.run(main())


def test_a_body_that_comes_in_time_is_answered() -> None:
    client = Client(6, b"abc", b"def")
    ask(client)
    assert (client.status, b"connection" in client.headers) == (200, False)


@pytest.mark.parametrize("size", [1_000, 400_000, None])
def test_a_client_that_sends_five_bytes_and_stops_is_answered_408_and_its_connection_closed(size: int | None) -> None:
    client = Client(size, b"--f\r\n")
    ask(client)
    assert (client.status, client.headers[b"connection"]) == (408, b"close")
    assert client.headers[b"content-type"] == b"application/problem+json"


def test_a_client_that_drips_is_too_slow_although_it_never_stops() -> None:
    client = Client(1_000, *[b"x"] * 1_000, pause_s=0.05)
    ask(client)
    assert client.status == 408
    assert client.sent < 20


def test_a_body_for_which_there_is_no_room_is_refused_before_it_is_read() -> None:
    first, second, third = (Client(400_000, b"x" * 200_000, b"x" * 200_000, pause_s=0.05) for _ in range(3))
    ask(first, second, then=third)
    assert (first.status, second.status, third.status, third.sent) == (200, 200, 429, 0)
    assert int(third.headers[b"retry-after"]) > 0


def test_a_body_without_a_length_takes_the_room_of_the_largest() -> None:
    chunked, other = Client(None, b"x"), Client(400_000, b"x" * 400_000)
    ask(chunked, then=other)
    assert (chunked.status, other.status) == (408, 429)


def test_room_is_given_back_when_a_request_has_been_answered() -> None:
    first, second, third = (Client(400_000, b"x" * 400_000) for _ in range(3))
    ask(first, second, then=third, after_s=0.1)
    assert third.status == 200


def test_bodies_that_have_stopped_give_way_to_one_that_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "STALLED_S", 0.05)
    stopped = [Client(400_000, b"x") for _ in range(2)]
    coming = Client(400_000, b"x" * 400_000)
    ask(*stopped, then=coming, after_s=0.1)
    assert [one.status for one in stopped] == [408, 408]
    assert coming.status == 200


def test_small_bodies_are_taken_while_uploads_fill_their_room() -> None:
    stopped = [Client(400_000, b"x") for _ in range(2)]
    search = Client(60, b"x" * 60)
    ask(*stopped, then=search)
    assert search.status == 200


def test_more_bodies_than_may_be_received_at_once_are_refused_unless_others_have_stopped() -> None:
    slow = [Client(50, b"x", b"x" * 49, pause_s=0.1) for _ in range(3)]
    one_more = Client(50, b"x" * 50)
    ask(*slow, then=one_more)
    assert ([one.status for one in slow], one_more.status) == ([200] * 3, 429)


def test_what_has_no_body_passes_whatever_is_in_hand() -> None:
    stopped = [Client(400_000, b"x") for _ in range(3)]
    health = Client(0, b"")
    ask(*stopped, then=health)
    assert health.status == 200
