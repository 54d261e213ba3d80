"""A caller of the endpoint: how it is named, what it may do, and how much of it. Knows no keys and no database."""

import re
from dataclasses import dataclass
from typing import Literal

Scope = Literal["search", "generate", "admin"]
SCOPES: tuple[Scope, ...] = ("search", "generate", "admin")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SHOWN = 8  # digits of a digest


@dataclass(frozen=True)
class Allowance:
    """What a caller may have at most; None is no limit."""

    requests_per_minute: int | None = None
    jobs_at_once: int | None = None
    """queued and running together"""
    covers_per_month: int | None = None
    """made since the first of the month, in UTC, and those of jobs under way"""


UNLIMITED = Allowance()


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    id: str
    """as jobs, usage and audit name it: a key's beginning, the SHA-256 of a key from the environment, or "anyone\""""
    scopes: frozenset[Scope]
    allowed: Allowance = UNLIMITED

    @property
    def name(self) -> str:
        """Fit for an answer or a log."""
        return name_of(self.id)

    @property
    def owner(self) -> str | None:
        """Whose jobs it may read and cancel: its own; anybody's (None) with the scope `admin`."""
        return None if "admin" in self.scopes else self.id

    def may(self, scopes: frozenset[Scope]) -> bool:
        """Whether it has one of these scopes, or `admin`, which has all."""
        return not self.scopes.isdisjoint(scopes | {"admin"})


ANYONE = Caller("anyone", frozenset(SCOPES))
"""the caller of an endpoint without keys"""


def name_of(caller_id: str) -> str:
    """A caller's id as it is shown: of a digest only the beginning."""
    return f"sha256:{caller_id[:_SHOWN]}" if _DIGEST.fullmatch(caller_id) else caller_id
