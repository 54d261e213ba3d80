"""Headers that announce the end of a route: `Deprecation` (RFC 9745), `Sunset` (RFC 8594), and what takes its place.

The policy is in docs/api.md: a route that ends works for a year after its first answer that says so.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Ending:
    """When a route ends, and what replaces it.

    Args:
        since: from when on it is deprecated, in UTC.
        ends: when it goes, in UTC.
        instead: path of what takes its place.
    """

    since: datetime
    ends: datetime
    instead: str


ENDINGS: Mapping[str, Ending] = {}
"""by method and path as in the description, `GET /v1/tracks/{song_id}`; none ends now"""


class SunsetMiddleware:
    """ASGI middleware that sets the headers on every answer of such a route, whatever its status."""

    def __init__(self, app: ASGIApp, endings: Mapping[str, Ending] = ENDINGS) -> None:
        self._app, self._endings = app, endings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = getattr(scope.get("route"), "path", None)  # known once a route was found
                ending = self._endings.get(f"{scope['method']} {path}")
                if ending is not None:
                    _announce(MutableHeaders(scope=message), ending)
            await send(message)

        await self._app(scope, receive, send_with_headers if self._endings else send)


def _announce(headers: MutableHeaders, ending: Ending) -> None:
    headers["Deprecation"] = f"@{int(ending.since.timestamp())}"
    headers["Sunset"] = format_datetime(ending.ends.astimezone(UTC), usegmt=True)
    headers.append("Link", f'<{ending.instead}>; rel="successor-version"')
