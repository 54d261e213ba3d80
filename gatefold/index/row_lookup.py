"""Rows of a column of texts, found by value: sorted hashes in arrays, where a dictionary would keep an object a row.

Shape legend: T = rows, n = values asked for.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Rows = npt.NDArray[np.int64]

_AT_ONCE = 1 << 16  # rows that are Python objects together


def in_chunks(column: pa.ChunkedArray | pa.Array) -> Iterator[list[Any]]:
    """The values of a column as Python objects, a few at a time."""
    for start in range(0, len(column), _AT_ONCE):
        yield column.slice(start, _AT_ONCE).to_pylist()


class RowLookup:
    """Which row holds a value; of equal values the first.

    Args:
        texts: strings [T], no nulls.
    """

    def __init__(self, texts: pa.ChunkedArray | pa.Array) -> None:
        self._texts = texts
        hashes = np.empty(len(texts), np.int64)
        start = 0
        for some in in_chunks(texts):
            hashes[start : start + len(some)] = _hashes(some)
            start += len(some)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def __len__(self) -> int:
        return len(self._texts)

    def __reduce__(self) -> tuple[type["RowLookup"], tuple[Any]]:  # another process has other hashes
        return RowLookup, (self._texts,)

    def rows(self, values: Sequence[str]) -> Rows:
        """int64 [n], -1 where no row holds the value."""
        if not len(values) or not len(self._texts):
            return np.full(len(values), -1, np.int64)
        hashes = _hashes(values)
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        found: Rows = np.where(self._hashes[places] == hashes, self._order[places], -1)
        at = np.flatnonzero(found >= 0)
        texts = self._texts.take(pa.array(found[at]))
        asked = pa.array([values[number] for number in at.tolist()], self._texts.type)
        for number in at[~np.asarray(pc.equal(texts, asked))].tolist():  # two values of one hash
            found[number] = self._search(values[number], int(places[number]))
        return found

    def row(self, value: str) -> int | None:
        """None where no row holds the value."""
        row = int(self.rows([value])[0])
        return None if row < 0 else row

    def _search(self, value: str, place: int) -> int:
        while place < len(self._hashes) and self._hashes[place] == hash(value):
            if self._texts[int(self._order[place])].as_py() == value:
                return int(self._order[place])
            place += 1
        return -1


def _hashes(values: Sequence[str]) -> Rows:
    return np.fromiter(map(hash, values), np.int64, len(values))
