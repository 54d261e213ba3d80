"""API keys of the environment, known here only by their SHA-256, and where an endpoint without keys may listen.

The environment variable GATEFOLD_API_KEYS of the process that deploys the endpoint holds the hashes, comma separated.
A replica gets them as an argument: its own environment may be that of a cluster, and decides nothing. A key is
compared in constant time with every hash, so that the time taken reveals nothing. Keys with scopes and limits are in
the database (serve.access.keys). Knows nothing of routes.
"""

import hmac
import ipaddress
import re
from collections.abc import Mapping

from gatefold.errors import InvalidSettings

VARIABLE = "GATEFOLD_API_KEYS"


class Keys:
    """The keys that an environment names: each has all scopes and no limits."""

    def __init__(self, hashes: frozenset[str]) -> None:
        self._hashes = hashes

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Keys":
        """The keys that GATEFOLD_API_KEYS names.

        Raises: InvalidSettings where an entry is no SHA-256 in hexadecimal; the entry itself is not repeated, since it
        may be a key that somebody forgot to hash.
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
        """Whether there are any."""
        return bool(self._hashes)

    def has(self, digest: str) -> bool:
        """Whether this is the SHA-256 of one of them; takes the same time for each."""
        matches = [hmac.compare_digest(digest, known) for known in self._hashes]  # all of them, always
        return any(matches)


def refuse_open_host(host: str, *, has_keys: bool, is_open: bool) -> None:
    """Nothing, where the endpoint may listen on this address.

    Args:
        has_keys: whether keys are configured, or in the database.
        is_open: whether an endpoint without keys is meant.

    Raises: InvalidSettings for an address that other machines reach, without keys.
    """
    if not (has_keys or is_open or is_loopback(host)):
        raise InvalidSettings(
            f"host '{host}' can be reached from other machines, and there is no API key: anyone there could search, "
            "generate and withdraw songs; create one with `gatefold keys create NAME --scope admin`, put SHA-256 sums "
            f"into {VARIABLE}, listen on 127.0.0.1, or say --open"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
