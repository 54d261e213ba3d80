"""API keys, known here only by their SHA-256.

The environment variable GATEFOLD_API_KEYS of the process that deploys the endpoint holds the hashes, comma separated;
unset or empty, the endpoint is open, and then listens on this machine alone unless that is said to be meant. A replica
gets the hashes as an argument: its own environment may be that of a cluster, and decides nothing. A key is compared in
constant time with every hash, so that the time taken reveals nothing. Knows nothing of routes.
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping

from gatefold.errors import InvalidSettings, Unauthorized

VARIABLE = "GATEFOLD_API_KEYS"


class Keys:
    """The callers that are let in."""

    def __init__(self, hashes: frozenset[str]) -> None:
        self._hashes = hashes

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Keys":
        """The keys that GATEFOLD_API_KEYS names.

        Raises: InvalidSettings where an entry is no SHA-256 in hexadecimal; the entry itself is not repeated, since
        it may be
            a key that somebody forgot to hash.
        """
        hashes = [part.strip().lower() for part in environment.get(VARIABLE, "").split(",") if part.strip()]
        for position, value in enumerate(hashes, start=1):
            if not re.fullmatch(r"[0-9a-f]{64}", value):
                raise InvalidSettings(
                    f"{VARIABLE}: entry {position} has {len(value)} characters and is no SHA-256; "
                    "each must be 64 hexadecimal digits: printf %s KEY | sha256sum"
                )
        return cls(frozenset(hashes))

    @property
    def hashes(self) -> list[str]:
        """SHA-256 of each key, in hexadecimal."""
        return sorted(self._hashes)

    @property
    def required(self) -> bool:
        """Whether a caller must show a key."""
        return bool(self._hashes)

    def caller(self, key: str | None) -> str:
        """A name for the caller with this key: its hash, or "anyone" at an open endpoint.

        Raises: Unauthorized when a key is required and this is none of them.
        """
        if not self.required:
            return "anyone"
        if not key:
            raise Unauthorized("this endpoint needs an API key; send it as 'Authorization: Bearer KEY'")
        shown = hashlib.sha256(key.encode()).hexdigest()
        matches = [hmac.compare_digest(shown, known) for known in self._hashes]  # all of them, always
        if not any(matches):
            raise Unauthorized("this API key ('Authorization: Bearer KEY') is not known here; ask the operator for one")
        return shown


def refuse_open_host(host: str, keys: Keys, *, is_open: bool) -> None:
    """Nothing, where the endpoint may listen on this address.

    Args:
        is_open: whether an endpoint without keys is meant.

    Raises: InvalidSettings for an address that other machines reach, without keys.
    """
    if not (keys.required or is_open or is_loopback(host)):
        raise InvalidSettings(
            f"host '{host}' can be reached from other machines, and no API key is configured: anyone there could "
            f"search, generate and withdraw songs; put SHA-256 sums into {VARIABLE}, listen on 127.0.0.1, or say --open"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
