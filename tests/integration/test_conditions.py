"""Neighbours searched by workers of a real Ray, and stored in a bucket."""

import numpy as np
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import StageMissing
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_tuned
from gatefold.storage import tables
from gatefold.storage.models.indexes import publish_index
from gatefold.workspace import Workspace
from pipelines.training import conditions
from pipelines.training.conditions import conditions_of, read_conditions, store_conditions
from tests.factories import indexed_tracks, unit_vectors

WIDTH, TRACKS, NEAREST = 8, 30, 4
IDS = [f"s{row}" for row in range(TRACKS)]


def test_workers_store_in_parts_what_one_process_finds_and_name_what_is_missing(
    ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "_SONGS_PER_PART", 8)
    table = indexed_tracks(unit_vectors(TRACKS, WIDTH), songs=unit_vectors(TRACKS, WIDTH, seed=1))
    built = build_tuned(*unit_columns(table), IndexSettings())
    workspace = Workspace(f"{ray_cluster}/conditions")
    index, uri = CoverIndex(table, "e1", built.vectors), f"{workspace.indexes}/i1"
    publish_index(uri, index, table, built.stats, version="i1", lineage={})
    folder = workspace.neighbours("g1")
    store_conditions(folder, uri, IDS, NEAREST)
    assert len(tables.parts(folder)) == 4
    expected = conditions_of(index, IDS, NEAREST)
    song, neighbours = read_conditions(folder, IDS)
    assert np.array_equal(song, expected.song)
    assert np.array_equal(neighbours, expected.neighbours)
    with pytest.raises(StageMissing, match="only 27 covers may be sources for"):
        store_conditions(workspace.neighbours("g2"), uri, IDS, 28)
