"""The request's id, and the first span of its trace.

Plain ASGI. The id is that of the header `X-Request-Id`, which Ray Serve's proxy makes where the client sends none; it
is carried through everything that works on the request (`serve.observability.carried`). Knows no route.
"""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api import problems
from serve.observability.carried import Carried, carrying
from serve.observability.tracing import TRACEPARENT, OpenSpan, span

ID_MAX = 128
"""characters of an id that a client sends"""
_ID = re.compile(rf"[!-~]{{1,{ID_MAX}}}")
_TRACED, _NOT_TRACED = "/v1/", "/v1/health/"


class RequestContextMiddleware:
    """An ASGI app whose requests have an id.

    Args:
        answers_id: whether the answer needs the id; Ray Serve's proxy adds it by itself.
    """

    def __init__(self, app: ASGIApp, *, answers_id: bool) -> None:
        self._app = app
        self._answers_id = answers_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        sent = headers.getlist("x-request-id")
        is_usable = len(sent) <= 1 and all(map(_ID.fullmatch, sent))
        request_id = sent[0] if sent and is_usable else str(uuid.uuid4())
        answer = _with_id(send, request_id) if self._answers_id else send
        if not is_usable:  # the proxy has repeated it in its answer, so none of ours could take its place
            detail = f"X-Request-Id: one of 1 to {ID_MAX} visible ASCII characters is taken, or none"
            await problems.of_status(400, detail, scope["path"])(scope, receive, answer)
            return
        if "\0" in scope["path"] or b"%00" in scope["query_string"]:  # which PostgreSQL takes in no text
            detail = "the address has a character of code 0; no name here does"
            await problems.of_status(400, detail, scope["path"])(scope, receive, answer)
            return
        traceparent = headers.get("traceparent")
        if traceparent is not None and not TRACEPARENT.fullmatch(traceparent):
            traceparent = None  # as the specification wants: a trace of its own begins
        with carrying(Carried(request_id=request_id, traceparent=traceparent)):
            await self._traced(scope, receive, answer)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if not path.startswith(_TRACED) or path.startswith(_NOT_TRACED):
            await self._app(scope, receive, send)
            return
        with span(scope["method"], "server") as opened:
            await self._app(scope, receive, _described(send, scope, opened))


def _with_id(send: Send, request_id: str) -> Send:
    async def send_with_id(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["X-Request-Id"] = request_id
        await send(message)

    return send_with_id


def _described(send: Send, scope: Scope, opened: OpenSpan) -> Send:
    """The same; the span gets the names that OpenTelemetry has for a request's route and status."""

    async def send_described(message: Message) -> None:
        if message["type"] == "http.response.start":
            route = getattr(scope.get("route"), "path_format", None)  # which the router has found by now
            if route is not None:
                route = _TRACED + route.removeprefix(_TRACED).lstrip("/")  # a route may know itself without that
                opened.rename(f"{scope['method']} {route}")
                opened.set("http.route", route)
            opened.set("http.request.method", scope["method"])
            opened.set("http.response.status_code", message["status"])
            if message["status"] >= 500:
                opened.fail(str(message["status"]))
        await send(message)

    return send_described
