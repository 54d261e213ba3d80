"""Receivers of webhooks: which URLs and which addresses may be called, and the connection to them.

An endpoint that calls whatever URL it is given reaches for anybody what lies behind its operator's firewall. So a
receiver is called over https alone, and at an address of the public internet. Its name is looked up once for each
call, and the call goes to the addresses that were checked, whatever the name stands for a moment later. Receivers that
the operator names may have any address.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

URL_MAX = 2048
"""characters"""
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_HTTPS, _HOST_MAX, _LABEL_MAX = 443, 253, 63
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
"""IPv4 addresses as a gateway writes them (RFC 6052)"""
_NOT_PUBLIC = "is not public; the operator may allow it (serve.webhooks.allowed_hosts)"
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""addresses of a name, for a port. Raises: OSError where there are none"""


class ReceiverRefused(Exception):
    """A receiver that may not be called. The message names no address: it is shown to the caller, who is not to learn
    what a name stands for in the operator's network."""


@dataclass(frozen=True)
class Receiver:
    """Where a webhook goes."""

    host: str
    """in ASCII, without brackets"""
    port: int
    url: str = field(repr=False)
    """in ASCII; its path and query may be secret"""

    @property
    def name(self) -> str:
        """Host and port: of the URL, what may be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_receiver(url: str) -> Receiver:
    """The receiver that this URL names. Raises: ValueError saying what is allowed, without the URL."""
    if len(url) > URL_MAX:
        raise ValueError(f"{len(url):,} characters, at most {URL_MAX:,}")
    try:
        parsed = httpx.URL(url)
        host, port = parsed.raw_host.decode(), _HTTPS if parsed.port is None else parsed.port
    except (httpx.InvalidURL, ValueError):
        raise ValueError("is no URL; it must read https://HOST/PATH") from None
    if parsed.scheme != "https" or not 0 < len(host) <= _HOST_MAX:
        raise ValueError(f"must begin with https:// and name a host of at most {_HOST_MAX} characters")
    labels = host.removesuffix(".").split(".")
    if _address(host) is None and any(not 0 < len(label) <= _LABEL_MAX for label in labels):
        raise ValueError(f"its host has a part, between two dots, that is empty or longer than {_LABEL_MAX} characters")
    if _address(host) is None and _NUMBER.fullmatch(labels[-1]):  # 2130706433 is 127.0.0.1 to some resolvers
        raise ValueError("its host ends in a number, and is no address in the usual form, as 192.0.2.1")
    if parsed.userinfo or "#" in url:
        raise ValueError("must have neither a user name, nor a password, nor a fragment")
    if not 0 < port < 65_536:
        raise ValueError("its port must lie between 1 and 65535")
    return Receiver(host, port, str(parsed))


def check_receiver(receiver: Receiver, allowed: Iterable[str]) -> None:
    """Raises: ValueError for an address that may not be called; what a name stands for shows when it is called.

    Args:
        allowed: `serve.webhooks.allowed_hosts`.
    """
    address = _address(receiver.host)
    if address is not None and not (is_public(address) or is_allowed(receiver.host, allowed)):
        raise ValueError(f"its address {_NOT_PUBLIC}")


def is_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether the operator lets this host have any address.

    Args:
        allowed: names, and `*.example.org` for all names below one.
    """
    name = host.lower().rstrip(".")
    entries = {entry.lower().strip("[]") for entry in allowed}
    parents = name.split(".")
    return name in entries or any("*." + ".".join(parents[start:]) in entries for start in range(1, len(parents)))


def is_public(address: Address) -> bool:
    """Whether this is an address of the public internet, of one host; an IPv6 address that stands for one of IPv4 is
    what that is."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.is_site_local or address.teredo is not None:
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def thread_resolver(at_once: int) -> Resolve:
    """Looks names up by the system, in threads of its own: a name whose server does not answer holds up no other
    thread of this process.

    Args:
        at_once: names that are looked up at a time.
    """
    threads = ThreadPoolExecutor(at_once, thread_name_prefix="webhook-names")

    async def resolve(host: str, port: int) -> Sequence[str]:
        look_up = asyncio.get_running_loop().run_in_executor(
            threads, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        )
        return list(dict.fromkeys(str(found[4][0]) for found in await look_up))

    return resolve


class CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connections to addresses that were checked; names and certificates stay those of the URL.

    Args:
        resolve: looks names up.
        allowed: `serve.webhooks.allowed_hosts`.
    """

    def __init__(self, resolve: Resolve, allowed: Iterable[str]) -> None:
        self._resolve = resolve
        self._allowed = tuple(allowed)
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to one of the host's addresses. Raises: ReceiverRefused where one of them may not be called;
        httpcore.ConnectError."""
        addresses = await self._addresses(host, port)
        for last, address in enumerate(addresses, start=1 - len(addresses)):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if not last:
                    raise
        raise httpcore.ConnectError("its name has no address")

    async def sleep(self, seconds: float) -> None:
        """Waits so long, as the interface wants it."""
        await self._network.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> Sequence[str]:
        literal = _address(host)
        try:
            found = [host] if literal is not None else await self._resolve(host, port)
        except (OSError, UnicodeError):  # the latter of names that no DNS query can carry
            raise httpcore.ConnectError("its name cannot be resolved") from None
        if not is_allowed(host, self._allowed):
            checked = [_address(one) for one in found]
            if any(address is None or not is_public(address) for address in checked):
                raise ReceiverRefused(f"its name stands for an address that {_NOT_PUBLIC}")
        return found


def _address(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
