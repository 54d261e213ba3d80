"""Whether a store does what gatefold counts on: each kind of request tried on two objects of our own.

Judges nothing and advises nothing; `gatefold doctor` does.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from gatefold.errors import GatefoldError
from gatefold.storage import objects


class StoreTrial:
    """What a store must be able to do; a step returns what is wrong with it, or None.

    Args:
        folder: URI under which nothing is yet.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.whole, self.once = objects.join(folder, "whole"), objects.join(folder, "once")
        self.touched: list[str] = []
        self.data = b"0123456789" * 10
        self.put_at = (0.0, 0.0)
        """seconds since 1970 here, before and after the first object was put"""

    def steps(self) -> dict[str, Callable[[], str | None]]:
        """By name, in the order in which they are tried. Each raises what the storage raises."""
        return {
            "write": self._put,
            "read": self._read,
            "read a range": self._read_range,
            "put if absent": self._put_if_absent,
            "put if unchanged": self._put_if_unchanged,
            "list": self._list,
            "delete": self._delete,
        }

    def _put(self) -> None:
        self.touched.append(self.whole)
        began = time.time()
        objects.put(self.whole, self.data)
        self.put_at = began, time.time()

    def _read(self) -> str | None:
        return None if objects.read(self.whole) == self.data else "what was read is not what was written"

    def _read_range(self) -> str | None:
        same = objects.open_source(self.whole, first_bytes=4).read_at(15, 10) == self.data[15:25]
        return None if same else "asked for ten bytes from the middle, it answers with others"

    def _put_if_absent(self) -> str | None:
        self.touched.append(self.once)
        won = [objects.put_if_absent(self.once, data) for data in (b"first", b"second")]
        if won == [True, False] and objects.read(self.once) == b"first":
            return None
        return "it overwrites what is there (If-None-Match is ignored), so two runs could not be distinguished"

    def _put_if_unchanged(self) -> str | None:
        etag = objects.stat(self.whole).etag or ""
        won = [objects.put_if_unchanged(self.whole, data, etag) for data in (self.data[::-1], self.data)]
        if won == [True, False] and objects.read(self.whole) == self.data[::-1]:
            return None
        return "it replaces what has changed (If-Match is ignored), so one of two activations could be lost"

    def _list(self) -> str | None:
        there = [info.uri for info in objects.list_objects(self.folder)]
        return None if there == sorted((self.whole, self.once)) else "what was just written is not listed"

    def _delete(self) -> str | None:
        objects.delete(self.whole)
        return "what was deleted is still there" if objects.exists(self.whole) else None


@contextmanager
def removed_after(trial: StoreTrial) -> Iterator[None]:
    """Takes the trial's objects away at the end, and the folders that a local disk did not have before."""
    path = objects.local_path(trial.folder)
    new = [] if path is None else [one for one in (path, *path.parents) if not one.exists()]
    try:
        yield
    finally:
        for uri in trial.touched:
            with suppress(GatefoldError):
                objects.delete(uri)
        for one in new:  # the innermost first
            with suppress(OSError):
                one.rmdir()
