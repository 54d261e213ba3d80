"""What an answer says of its caller, and what is written down of it: rates in its headers, its status in the audit.

Plain ASGI around the routes, since an answer may be a route's, a problem's or a stream. Reads what
`serve.access.authorization` has noted.
"""

import logging
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatefold.errors import GatefoldError
from serve.access.audit import AuditLog
from serve.access.rates import Rate

logger = logging.getLogger(__name__)


class AccountingMiddleware:
    """ASGI middleware that sets the headers and ends the entries of the audit."""

    def __init__(self, app: ASGIApp, audit: AuditLog) -> None:
        self._app, self._audit = app, audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                noted: dict[str, Any] = scope.get("state", {})
                rate: Rate | None = noted.get("rate")
                if rate is not None:
                    MutableHeaders(scope=message).update(rate.headers)
                await self._finish(noted, str(message["status"]))
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            await self._finish(scope.get("state", {}), "500")
            raise

    async def _finish(self, noted: dict[str, Any], result: str) -> None:
        number = noted.pop("audit", None)
        if number is None:
            return
        try:
            await self._audit.finish(number, result)
        except GatefoldError as error:  # what was asked for is done: the entry stays without a result
            logger.error("entry %d of the audit ended with %s, which cannot be written down: %s", number, result, error)
