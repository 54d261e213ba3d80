"""What a generator is conditioned on is what one search a song would find, and is stored once for all its readers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import StageMissing, UnknownTrack
from gatefold.generator import sources
from gatefold.index.interface import Filters
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_tuned
from gatefold.storage import objects, tables
from gatefold.storage.models.indexes import publish_index
from gatefold.workspace import Workspace
from pipelines.training import conditions
from pipelines.training.conditions import conditions_of, read_conditions, store_conditions
from tests.factories import Vectors, indexed_tracks, unit_vectors

WIDTH, TRACKS, NEAREST = 8, 60, 4
IDS = [f"s{row}" for row in range(TRACKS)]


def tracks() -> Any:
    return indexed_tracks(unit_vectors(TRACKS, WIDTH), songs=unit_vectors(TRACKS, WIDTH, seed=1))


@pytest.fixture(scope="module")
def index() -> CoverIndex:
    return CoverIndex(tracks(), "e1")


@pytest.fixture
def index_uri(tmp_path: Path) -> str:
    uri = objects.resolve(str(tmp_path / "indexes" / "i1"))
    built = build_tuned(*unit_columns(tracks()), IndexSettings())
    publish_index(uri, CoverIndex(tracks(), "e1", built.vectors), tracks(), built.stats, version="i1", lineage={})
    return uri


def one_by_one(index: CoverIndex, song_id: str) -> tuple[Vectors, list[str]]:
    known = index.get(song_id)
    assert known.song_embedding is not None
    assert known.track.artist is not None
    filters = Filters(frozenset({song_id}), frozenset({known.track.artist}))
    matches = index.search(known.song_embedding[None], NEAREST, encoder_fingerprint="e1", filters=filters)[0]
    return known.song_embedding, [match.track.song_id for match in matches]


@pytest.mark.parametrize(("at_once", "spare"), [(512, 32), (7, 32), (512, 0), (7, 1)])
def test_searched_together_each_song_has_the_neighbours_it_has_alone(
    index: CoverIndex, at_once: int, spare: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without spare matches, a song that finds itself or its artist is searched for again, alone."""
    monkeypatch.setattr(sources, "_SONGS_PER_SEARCH", at_once)
    monkeypatch.setattr(sources, "_EXTRA_MATCHES", spare)
    found = conditions_of(index, IDS, NEAREST)
    for row, song_id in enumerate(IDS):
        song, ids = one_by_one(index, song_id)
        assert found.neighbour_ids[row] == ids
        assert np.array_equal(found.song[row], song)
        assert np.array_equal(found.neighbours[row], index.cover_embeddings(ids))


def test_songs_without_a_known_artist_leave_out_their_own_cover_alone() -> None:
    table = tracks()
    unknown = table.set_column(table.column_names.index("artist"), "artist", [[None] * TRACKS])
    nameless = CoverIndex(unknown.cast(table.schema), "e1")
    found = conditions_of(nameless, IDS, TRACKS - 1)
    assert [sorted([song_id, *ids]) for song_id, ids in zip(IDS, found.neighbour_ids, strict=True)] == [
        sorted(IDS)
    ] * TRACKS


def test_too_few_other_artists_and_songs_without_an_embedding_are_named() -> None:
    with pytest.raises(StageMissing, match="only 57 covers may be sources for 's0', 58 are needed"):
        conditions_of(CoverIndex(tracks(), "e1"), ["s0"], 58)
    silent = CoverIndex(indexed_tracks(unit_vectors(TRACKS, WIDTH)), "e1")
    with pytest.raises(UnknownTrack, match="track 's0' has no song embedding"):
        conditions_of(silent, ["s0"], 2)


def test_readers_get_what_was_searched_once_in_the_order_they_ask(tmp_path: Path, index_uri: str) -> None:
    folder = Workspace(objects.resolve(str(tmp_path))).neighbours("g1")
    store_conditions(folder, index_uri, IDS, NEAREST)
    asked = ["s7", "s3", "s7", "s59"]
    expected = conditions_of(CoverIndex(tracks(), "e1"), asked, NEAREST)
    song, neighbours = read_conditions(folder, asked)
    assert np.array_equal(song, expected.song)
    assert np.array_equal(neighbours, expected.neighbours)
    rows = tables.read_table(folder, ["song_id", "neighbour_ids"]).to_pylist()
    stored = {row["song_id"]: row["neighbour_ids"] for row in rows}
    assert [stored[song_id] for song_id in asked] == expected.neighbour_ids


def test_what_is_stored_is_not_searched_again(
    tmp_path: Path, index_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Workspace(objects.resolve(str(tmp_path))).neighbours("g1")
    store_conditions(folder, index_uri, IDS, NEAREST)
    (part,) = tables.parts(folder)

    def searched(*_: Any) -> Any:
        raise AssertionError("searched again")

    monkeypatch.setattr(conditions, "conditions_of", searched)
    store_conditions(folder, index_uri, IDS, NEAREST)
    assert tables.parts(folder) == [part]
    with pytest.raises(AssertionError, match="searched again"):
        store_conditions(folder, index_uri, IDS[1:], NEAREST)


def test_a_song_that_is_not_stored_is_named(tmp_path: Path, index_uri: str) -> None:
    folder = Workspace(objects.resolve(str(tmp_path))).neighbours("g1")
    store_conditions(folder, index_uri, IDS[:3], NEAREST)
    with pytest.raises(StageMissing, match="has no neighbours of track 's5'; run `gatefold train-generator`"):
        read_conditions(folder, ["s1", "s5"])
