"""Admission of request bodies: bounds on bytes and on bodies being received, and timeouts of slow clients.

Plain ASGI, before any route. Room for a body is reserved before it is read, by the length that it declares, and kept
until its request is answered. A client that stops sending, or sends too slowly, is answered with 408; when room is
wanted, those that have stopped give way at once. Requests without a body, health among them, pass untouched. Headers
are read by Ray Serve's HTTP proxy, before this is reached.
"""

import asyncio
import re
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatefold.config import ServeSettings
from gatefold.errors import GatefoldError, Overloaded, RequestTimeout
from serve.api.problems import RETRY_AFTER_S, respond

SMALL_BYTES = 65_536
"""a body that declares no more is not counted in bytes: the connection that it comes by costs as much"""
STALLED_S = 1.0
"""seconds without a byte after which a body gives way to others"""


class BodyAdmissionMiddleware:
    """An ASGI app behind its intake.

    Args:
        limits: `uploads_max_bytes`, `bodies_max`, `body_timeout_s`, `body_min_rate`, `upload_max_bytes` and
            `form_fields_max_bytes` are used.
    """

    def __init__(self, app: ASGIApp, limits: ServeSettings) -> None:
        self._app = app
        self._limits = limits
        self._bodies: set[_Body] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        size = self._declared(scope)
        if not size:
            await self._app(scope, receive, send)
            return
        try:
            body = self._admit(_Body(size, receive, self._limits))
        except GatefoldError as error:
            await respond(error, scope["path"])(scope, receive, _closing(send))
            return
        try:
            await self._app(scope, body.receive, body.closing(send))
        finally:
            self._bodies.discard(body)

    def _declared(self, scope: Scope) -> int:
        """Bytes that the body may have; 0 for none, and for one that its route will refuse unread."""
        if scope["type"] != "http":
            return 0
        headers = Headers(scope=scope)
        most = self._limits.upload_max_bytes + self._limits.form_fields_max_bytes
        if "transfer-encoding" in headers:
            return most
        length = headers.get("content-length", "")
        size = int(length) if re.fullmatch(r"[0-9]{1,19}", length) else 0
        return size if size <= most else 0

    def _admit(self, body: "_Body") -> "_Body":
        """The body, counted from now on. Raises: Overloaded where there is no room for it."""
        limits = self._limits
        self._make_room(body)
        in_hand = self._counted()
        if in_hand and body.counted and in_hand + body.counted > limits.uploads_max_bytes:
            raise Overloaded(
                f"uploads of {in_hand:,} bytes are in hand; this one of {body.counted:,} would make them more than "
                f"{limits.uploads_max_bytes:,} (serve.uploads_max_bytes); try again later",
                RETRY_AFTER_S,
            )
        if self._incomplete() >= limits.bodies_max:
            raise Overloaded(
                f"{limits.bodies_max} requests are being received (serve.bodies_max); try again later", RETRY_AFTER_S
            )
        self._bodies.add(body)
        return body

    def _make_room(self, body: "_Body") -> None:
        """Ends bodies that have stopped coming in, those that stopped first, as far as this one needs their room."""
        stalled = sorted((one for one in self._bodies if one.is_stalled), key=lambda one: one.moved_at)
        for one in stalled:
            fits = not body.counted or self._counted() + body.counted <= self._limits.uploads_max_bytes
            if fits and self._incomplete() < self._limits.bodies_max:
                return
            if one.counted or self._incomplete() >= self._limits.bodies_max:
                one.give_way()
                self._bodies.discard(one)

    def _counted(self) -> int:
        return sum(one.counted for one in self._bodies)

    def _incomplete(self) -> int:
        return sum(not one.complete for one in self._bodies)


class _Body:
    """A body that comes in."""

    def __init__(self, size: int, receive: Receive, limits: ServeSettings) -> None:
        self.counted = size if size > SMALL_BYTES else 0
        self.complete = False
        self.moved_at = self._began = time.monotonic()
        self._received = 0
        self._receive = receive
        self._limits = limits
        self._wanted: asyncio.Future[Any] = asyncio.get_running_loop().create_future()  # its room, by another

    @property
    def is_stalled(self) -> bool:
        return not self.complete and time.monotonic() - self.moved_at > STALLED_S

    def give_way(self) -> None:
        if not self._wanted.done():
            self._wanted.set_result(None)

    async def receive(self) -> Message:
        """The next message. Raises: RequestTimeout where the client is too slow."""
        if self.complete:
            return await self._receive()
        limit_s = self._limits.body_timeout_s
        due = min(self.moved_at, self._began + self._received / self._limits.body_min_rate) + limit_s
        coming: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        try:
            waited_s = max(0.0, due - time.monotonic())
            await asyncio.wait({coming, self._wanted}, timeout=waited_s, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                raise RequestTimeout(
                    f"the body stopped after {self._received:,} bytes, or came too slowly: {limit_s:g} s may pass "
                    "without a byte (serve.body_timeout_s), less where others wait for room, and "
                    f"{self._limits.body_min_rate:,} bytes a second are the least (serve.body_min_rate); send it again"
                )
            message: Message = coming.result()
        finally:
            coming.cancel()
        self._received += len(message.get("body", b""))
        self.moved_at = time.monotonic()
        self.complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    def closing(self, send: Send) -> Send:
        """The same, but an answer to an incomplete body closes the connection: the rest would be read for nothing."""
        closing = _closing(send)

        async def send_message(message: Message) -> None:
            await (send if self.complete else closing)(message)

        return send_message


def _closing(send: Send) -> Send:
    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return closing
