"""A folder of parts is made true to a table of tracks, whatever lies in it."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import AudioSettings, CoverSettings
from gatefold.errors import SchemaMismatch
from gatefold.records import cover_schema, spectrogram_schema
from gatefold.storage import objects, tables
from pipelines.extraction.compaction import Part, compact, part_name, part_of, present, remove_stale

TRACKS = pa.table({"song_id": ["a", "b", "c", "d"], "etag": ["1", "1", "", "1"]})


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return objects.resolve(str(tmp_path / "rows"))


def put(folder: str, name: str, *rows: str) -> None:
    """Rows such as `a1`, song a made of etag 1; `c` has an empty etag."""
    songs, etags = [row[0] for row in rows], [row[1:] for row in rows]
    tables.write_part(folder, name, pa.table({"song_id": songs, "n": np.arange(len(rows)), "etag": etags}))


def left(folder: str) -> dict[str, str]:
    """What each part holds, as `a1 b1`."""
    found = {}
    for uri in tables.parts(folder):
        part = tables.read_part(uri)
        pairs = zip(part["song_id"].to_pylist(), part["etag"].to_pylist(), strict=True)
        found[objects.name(uri).removesuffix(".parquet")] = " ".join(song + (etag or "") for song, etag in pairs)
    return found


def pruned(folder: str) -> tuple[dict[str, Part], list[bool]]:
    claimed = np.zeros(TRACKS.num_rows, np.bool_)
    return remove_stale(folder, TRACKS, claimed), claimed.tolist()


def test_what_is_true_is_left_untouched(folder: str) -> None:
    put(folder, "p1", "a1", "a1", "b1")
    put(folder, "p2", "c")
    before = [objects.stat(uri) for uri in tables.parts(folder)]
    assert pruned(folder) == ({"p1": Part(2, "a", "b"), "p2": Part(1, "c", "c")}, [True, True, True, False])
    assert [objects.stat(uri) for uri in tables.parts(folder)] == before


def test_removed_songs_other_etags_and_doubles_disappear(folder: str) -> None:
    put(folder, "p1", "a1", "a1", "b0", "x1")
    put(folder, "p2", "a1", "b1", "b1", "c9")
    put(folder, "p3", "a1", "z1")
    assert pruned(folder) == ({"p1": Part(1, "a", "a"), "p2": Part(1, "b", "b")}, [True, True, False, False])
    assert left(folder) == {"p1": "a1 a1", "p2": "b1 b1"}


def test_a_song_in_a_part_under_two_etags_keeps_that_of_its_file(folder: str) -> None:
    put(folder, "p1", "a0", "a1", "a0")
    pruned(folder)
    assert left(folder) == {"p1": "a1"}


def test_rejects_of_songs_that_have_a_row_are_not_needed(folder: str) -> None:
    put(folder, "p1", "a1", "b1", "d1")
    claimed = np.array([True, False, False, False])
    remove_stale(folder, TRACKS, claimed)
    assert left(folder) == {"p1": "b1 d1"}
    assert claimed.tolist() == [True, True, False, True]


def test_parts_without_etags_are_refused_with_what_to_do(folder: str) -> None:
    tables.write_part(folder, "old", pa.table({"song_id": ["a", "c", "c"], "n": [1, 2, 3]}))
    for read in (lambda: present(folder, TRACKS), lambda: pruned(folder)):
        with pytest.raises(SchemaMismatch, match=r"has no column \['etag'\]; delete its folder and run its stage"):
            read()


def test_a_folder_that_is_not_there_has_nothing(folder: str) -> None:
    assert pruned(folder) == ({}, [False] * 4)
    assert not present(folder, TRACKS).any()


def test_without_tracks_nothing_stays(folder: str) -> None:
    put(folder, "p1", "a1")
    assert remove_stale(folder, TRACKS.slice(0, 0), np.zeros(0, np.bool_)) == {}
    assert left(folder) == {}


@pytest.mark.parametrize("schema", [spectrogram_schema(AudioSettings()), cover_schema(CoverSettings())])
def test_tensors_survive_pruning_and_merging(folder: str, schema: pa.Schema) -> None:
    tensor = schema.field(-2).type
    size, rows = int(np.prod(tensor.shape)), 20
    values = np.arange(rows).repeat(size).astype(tensor.value_type.to_pandas_dtype())
    column = tables.tensor_column(list(values.reshape(rows, size)), tensor)
    ids = [f"s{number:02}" for number in range(rows)]
    for row in range(rows):
        part = pa.table({"song_id": ids[row : row + 1] * 2, "x": column.take(pa.array([row, row])), "etag": ["e", "e"]})
        tables.write_part(folder, f"p{row:02}", part)
    tracks = pa.table({"song_id": ids[1:], "etag": ["e"] * (rows - 1)})
    parts = remove_stale(folder, tracks, np.zeros(rows - 1, np.bool_))
    merged = compact(folder, parts, 10)
    assert merged == {objects.name(uri).removesuffix(".parquet"): part_of(tables.read_part(uri))
                      for uri in tables.parts(folder)}  # fmt: skip
    found = tables.read_table(folder).sort_by("song_id")
    assert len(tables.parts(folder)) == 2
    assert found["song_id"].to_pylist() == [song_id for song_id in ids[1:] for _ in range(2)]
    assert (
        tables.tensors(found["x"]).reshape(2 * (rows - 1), size)[:, 0].tolist() == np.arange(1, rows).repeat(2).tolist()
    )


def test_a_merge_that_was_killed_half_way_is_mended(folder: str) -> None:
    ids = [f"s{number:02}" for number in range(20)]
    tracks = pa.table({"song_id": ids, "etag": ["1"] * 20})
    for number, song_id in enumerate(ids):
        tables.write_part(folder, f"{number:032x}", pa.table({"song_id": [song_id], "etag": ["1"]}))
    pieces = tables.read_table(folder)
    compact(folder, remove_stale(folder, tracks, np.zeros(20, np.bool_)), 10)
    merged = {objects.name(uri) for uri in tables.parts(folder)}
    for number in (3, 4, 15):
        tables.write_part(folder, f"{number:032x}", pieces.slice(number, 1))
    compact(folder, remove_stale(folder, tracks, np.zeros(20, np.bool_)), 10)
    assert sorted(tables.read_table(folder)["song_id"].to_pylist()) == ids
    assert merged & {objects.name(uri) for uri in tables.parts(folder)} == merged


def test_a_merge_whose_name_a_piece_of_it_has_already_loses_nothing(folder: str) -> None:
    """A merged part of which some songs are elsewhere too is left with the rest, under the name of all of them."""
    songs = [f"{letter}1" for letter in "abcdefghij"]
    merged = part_name(pa.table({"song_id": [song[0] for song in songs], "etag": ["1"] * len(songs)}))
    for song in songs[:-1]:
        put(folder, song[0], song)
    put(folder, merged, songs[-1])
    names = [objects.name(uri).removesuffix(".parquet") for uri in tables.parts(folder)]
    compact(folder, {name: part_of(tables.read_part(objects.join(folder, f"{name}.parquet"))) for name in names}, 10)
    assert left(folder) == {merged: " ".join(songs)}


def test_a_few_small_parts_and_all_large_ones_are_left_as_they_are(folder: str) -> None:
    for number in range(8):
        put(folder, f"small{number}", f"{number}1")
    put(folder, "large", "a1", "b1", "c1", "d1", "e1")
    parts = {objects.name(uri).removesuffix(".parquet"): part_of(tables.read_part(uri)) for uri in tables.parts(folder)}
    compact(folder, parts, 10)
    assert set(left(folder)) == set(parts)


def test_a_part_is_named_after_its_songs_and_what_they_are_made_of() -> None:
    names = {part_name(TRACKS), part_name(TRACKS.sort_by([("song_id", "descending")]))}
    assert len(names) == 1
    others = (TRACKS.slice(1), TRACKS.set_column(1, "etag", pa.array(["1", "1", "", "2"])))
    assert names.isdisjoint(map(part_name, others))
