"""Progress reports of a stage to its caller: what is done, what there is in all, and facts beside the two numbers."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

NOTHING: Mapping[str, str] = MappingProxyType({})


class OnProgress(Protocol):
    """Called with the inputs done so far and all of them, as a stage goes on.

    `facts` is what else a watcher may want to see, name to value, ready to be shown and in that order.
    """

    def __call__(self, done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None: ...


def silent(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
    """For callers who do not watch."""
