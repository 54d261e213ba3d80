"""Rows are found by value, whatever their hashes are."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from gatefold.index import row_lookup
from gatefold.index.row_lookup import RowLookup


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_every_value_is_found_in_its_row_and_no_other_value_anywhere(kind: pa.DataType) -> None:
    values = [f"song {number}" for number in np.random.default_rng(0).permutation(1_000)]
    lookup = RowLookup(pa.chunked_array([values[:300], [], values[300:]], kind))
    assert lookup.rows(values).tolist() == list(range(1_000))
    assert lookup.rows(["song 1000", "", "Ж", values[7]]).tolist() == [-1, -1, -1, 7]
    assert (lookup.row(values[999]), lookup.row("none"), len(lookup)) == (999, None, 1_000)
    assert lookup.rows([]).tolist() == []
    assert RowLookup(pa.array([], kind)).rows(["a"]).tolist() == [-1]


def test_values_of_one_hash_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_lookup, "hash", len, raising=False)
    lookup = RowLookup(pa.array(["ab", "c", "cd", "ef", "ab"]))
    assert lookup.rows(["ef", "cd", "ab", "xy", "c", "xyz"]).tolist() == [3, 2, 0, -1, 1, -1]


def test_a_copy_in_another_process_makes_its_own_hashes() -> None:
    lookup = RowLookup(pa.array(["a", "b"]))
    assert pickle.loads(pickle.dumps(lookup)).rows(["b"]).tolist() == [1]  # noqa: S301
    assert b"_hashes" not in pickle.dumps(lookup)
