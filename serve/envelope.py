"""Round every request: an id, a line in the log, headers that a browser obeys, and a problem where nothing else
caught the fault. Plain ASGI, so that answers which stream are not held back. Knows no route."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import internal_error, respond

logger = logging.getLogger(__name__)

_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
PAGE_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
DOCS_POLICY = (  # FastAPI's documentation page loads Swagger UI from its CDN and starts it by an inline script
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; img-src 'self' data: https://fastapi.tiangolo.com; "
    "worker-src blob:; object-src 'none'; base-uri 'none'; frame-ancestors 'none'"
)


class Envelope:
    """An ASGI app in its envelope."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked_id = Headers(scope=scope).get("x-request-id", "")
        request_id = asked_id if _ID.fullmatch(asked_id) else uuid.uuid4().hex
        began = time.monotonic()
        status = 0

        async def sealed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _seal(MutableHeaders(scope=message), scope["path"], request_id)
            await send(message)

        try:
            await self._app(scope, receive, sealed)
        except Exception:
            logger.exception("%s %s failed; request %s", scope["method"], scope["path"], request_id)
            if status:
                raise  # too late for another answer: the connection breaks, which tells the client
            await respond(internal_error(), scope["path"])(scope, receive, sealed)
        finally:
            elapsed_ms = 1000 * (time.monotonic() - began)
            logger.info("%s %s %d %.0f ms; request %s", scope["method"], scope["path"], status, elapsed_ms, request_id)


def _seal(headers: MutableHeaders, path: str, request_id: str) -> None:
    headers["X-Request-Id"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Content-Security-Policy"] = DOCS_POLICY if path in ("/docs", "/redoc") else PAGE_POLICY
    headers.setdefault("Cache-Control", "no-store" if path.startswith("/v1") else "no-cache")
