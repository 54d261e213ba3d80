"""Allowed host names, against DNS rebinding.

A request whose `Host` is none of them is refused, so that a page elsewhere cannot reach an endpoint inside a network by
a name of its own that points there.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.api import problems

LOOPBACK = ("localhost", "*.localhost", "127.0.0.1", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")
"""as an entry of the list: every IP address, which nobody can point a name of his own to"""
_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")
_SHOWN = 80


class AllowedHostsMiddleware:
    """An ASGI app behind a list of names.

    Args:
        allowed: beside the loopback names: a name, `*.example.org` for all names below one, `0.0.0.0` for every IP
            address, or `*` for anything.
    """

    def __init__(self, app: ASGIApp, allowed: Iterable[str]) -> None:
        self._app = app
        self._names = frozenset(name.lower().strip("[]") for name in (*LOOPBACK, *allowed))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (refusal := self._refused(Headers(scope=scope).getlist("host"))) is None:
            await self._app(scope, receive, send)
            return
        status, detail = refusal
        await problems.of_status(status, detail, scope["path"])(scope, receive, send)

    def _refused(self, sent: list[str]) -> tuple[int, str] | None:
        found = _HOST.fullmatch(sent[0]) if len(sent) == 1 else None
        if found is None:
            shown = ", ".join(sent)[:_SHOWN]
            return 400, f"Host = '{shown}': one name or address is wanted, with or without a port"
        name = (found[1] or found[2]).lower().rstrip(".")
        if self._knows(name):
            return None
        return 421, (
            f"Host = '{name[:_SHOWN]}': this endpoint does not answer to that name; "
            "call it by one it knows, or add the name to serve.hosts"
        )

    def _knows(self, name: str) -> bool:
        if "*" in self._names or name in self._names:
            return True
        if _is_address(name):
            return not self._names.isdisjoint(ANY_ADDRESS)
        parents = name.split(".")
        return any("*." + ".".join(parents[start:]) in self._names for start in range(1, len(parents)))


def names_of(host: str) -> list[str]:
    """The names that an endpoint which listens here answers to, beside the loopback names."""
    if host in ANY_ADDRESS:
        return list(dict.fromkeys([*ANY_ADDRESS, socket.gethostname(), socket.getfqdn()]))
    return [host]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
