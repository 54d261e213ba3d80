"""Folders of Parquet parts."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatefold.config import AudioSettings, CoverSettings
from gatefold.errors import Corrupt, SchemaMismatch, StageMissing
from gatefold.records import cover_schema, embedding_schema, spectrogram_schema
from gatefold.storage import objects, tables


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return objects.resolve(str(tmp_path / "a table"))


def tensors(rows: int) -> pa.ExtensionArray:
    kind = pa.fixed_shape_tensor(pa.float16(), [2, 3])
    storage = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(rows * 6, dtype=np.float16)), 6)
    return pa.ExtensionArray.from_storage(kind, storage)


def test_parts_come_back_in_the_order_of_their_names(folder: str) -> None:
    for name, ids in (("b", ["3"]), ("a", ["1", "2"]), ("c", ["4"])):
        tables.write_part(folder, name, pa.table({"song_id": ids}))
    assert tables.read_table(folder)["song_id"].to_pylist() == ["1", "2", "3", "4"]
    assert [objects.name(uri) for uri in tables.parts(folder)] == ["a.parquet", "b.parquet", "c.parquet"]


def test_a_span_of_the_ids_is_read_from_every_part(folder: str) -> None:
    vectors = pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2))
    for name, ids in (("a", ["d", "a", "c", "e"]), ("b", ["b", "f", "Ж", "z"])):
        tables.write_part(folder, name, pa.table({"song_id": ids, "vector": vectors}))
    spans = {("", None): "dacebfЖz", ("", "c"): "ab", ("c", "f"): "dce", ("f", None): "fЖz", ("zz", "zzz"): ""}
    for within, expected in spans.items():
        found = tables.read_table(folder, ["vector", "song_id"], within=within)
        assert "".join(found["song_id"].to_pylist()) == expected
        assert found["vector"].to_pylist() == [[1.0, 2.0]] * len(expected)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_tensors_round_trip(folder: str, rows: int) -> None:
    tables.write_part(folder, "part", pa.table({"log_mel": tensors(rows)}))
    column = tables.read_table(folder)["log_mel"]
    assert column.type == tensors(0).type
    assert np.array_equal(column.combine_chunks().to_numpy_ndarray(), tensors(rows).to_numpy_ndarray())


def test_a_column_of_tensors_shares_the_memory_of_its_arrays() -> None:
    kind = pa.fixed_shape_tensor(pa.float16(), [2, 3])
    arrays = [np.full((rows, 2, 3), rows, np.float16) for rows in (2, 1, 4)]
    column = tables.tensor_column(arrays, kind)
    assert np.array_equal(tables.tensors(column), np.concatenate(arrays))
    for chunk, array in zip(column.chunks, arrays, strict=True):
        assert np.shares_memory(chunk.storage.values.to_numpy(), array)
    assert tables.tensors(tables.tensor_column([], kind)).shape == (0, 2, 3)


def test_floats_are_split_by_bytes_and_all_else_by_a_dictionary() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 9, (64, 3, 16, 16), np.uint8)
    pixels = tables.tensor_column([pictures], cover_schema(CoverSettings(size=16)).field("pixels").type)
    vectors = pa.array([None, *rng.standard_normal((63, 4)).tolist()], pa.list_(pa.float32(), 4))
    part = pa.table({"song_id": ["a", "b"] * 32, "v": vectors, "pixels": pixels, "moods": [["calm", "sad"]] * 64})
    file = pq.ParquetFile(pa.BufferReader(tables.encode_part(part)))
    assert file.read().equals(part)
    group = file.metadata.row_group(0)
    columns = {column.path_in_schema: column for column in map(group.column, range(group.num_columns))}
    assert "BYTE_STREAM_SPLIT" in columns.pop("v.list.element").encodings
    assert len(columns) == 3
    assert all(column.has_dictionary_page for column in columns.values())


def test_a_large_part_is_written_and_read_in_groups_of_rows() -> None:
    songs = [np.full((3, 256, 1024), number, np.float16) for number in range(20)]
    log_mel = tables.tensor_column(songs, pa.fixed_shape_tensor(pa.float16(), [256, 1024]))
    file = pq.ParquetFile(pa.BufferReader(tables.encode_part(pa.table({"log_mel": log_mel}))))
    sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
    assert max(sizes) * 256 * 1024 * 2 <= 4 << 20
    assert np.array_equal(tables.tensors(file.read()["log_mel"]), np.concatenate(songs))


SCHEMAS = [spectrogram_schema(AudioSettings()), cover_schema(CoverSettings()), embedding_schema(8)]


@pytest.mark.parametrize("schema", SCHEMAS, ids=["spectrograms", "covers", "embeddings"])
def test_every_schema_of_a_workspace_survives_without_rows(folder: str, schema: pa.Schema) -> None:
    tables.write_part(folder, "part", schema.empty_table())
    assert tables.read_table(folder).schema == schema


def test_columns_come_in_the_order_asked_for(folder: str) -> None:
    tables.write_part(folder, "part", pa.table({"a": [1], "b": [2], "c": [3]}))
    assert tables.read_table(folder, ["c", "a"]).column_names == ["c", "a"]
    with pytest.raises(SchemaMismatch, match="z"):
        tables.read_table(folder, ["z"])


def test_parts_of_differing_columns_become_one_schema(folder: str) -> None:
    tables.write_part(folder, "a", pa.table({"song_id": ["1"], "mood": pa.nulls(1)}))
    tables.write_part(folder, "b", pa.table({"song_id": ["2"], "mood": ["sad"], "bpm": [90]}))
    assert tables.read_table(folder).to_pylist() == [
        {"song_id": "1", "mood": None, "bpm": None},
        {"song_id": "2", "mood": "sad", "bpm": 90},
    ]


def test_parts_that_contradict_each_other_are_refused(folder: str) -> None:
    tables.write_part(folder, "a", pa.table({"x": ["1"]}))
    tables.write_part(folder, "b", pa.table({"x": [[1.0]]}))
    with pytest.raises(SchemaMismatch, match="do not fit each other"):
        tables.read_table(folder)


def test_an_empty_folder_names_the_verb_to_run(folder: str) -> None:
    assert not tables.parts(folder)
    with pytest.raises(StageMissing, match="run `gatefold spectrograms` first"):
        tables.read_table(folder, stage="spectrograms")


def test_a_part_that_is_cut_short_is_corrupt(folder: str) -> None:
    uri = tables.write_part(folder, "part", pa.table({"x": list(range(1000))}))
    objects.put(uri, objects.read(uri)[:-20])
    with pytest.raises(Corrupt, match=r"part\.parquet' is not a whole Parquet file"):
        tables.read_table(folder)


def names_opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all objects that are opened from now on."""
    names: list[str] = []
    open_source = objects.open_source

    def noted(uri: str) -> objects.ObjectSource:
        names.append(objects.name(uri))
        return open_source(uri)

    monkeypatch.setattr(objects, "open_source", noted)
    return names


def test_rows_are_read_by_id_from_the_parts_that_can_hold_them_alone(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        ids = [f"{number:02}-{song}" for song in range(10)]
        tables.write_part(folder, f"part-{number:02}", pa.table({"song_id": ids, "number": [number] * 10}))
    opened = names_opened(monkeypatch)
    assert tables.read_rows(folder, ["03-4", "05-0"], ["number"])["number"].to_pylist() == [3, 5]
    assert len(opened) == 20 + 2, "the footers of all, then the two that may hold them"
    opened.clear()
    assert tables.read_rows(folder, ["07-9"], ["song_id"])["song_id"].to_pylist() == ["07-9"]
    assert opened == ["part-07.parquet"]
    assert tables.read_rows(folder, ["99-0"], ["song_id", "number"]).num_rows == 0
    assert tables.read_rows(folder, [], ["number"]).column_names == ["number"]


def test_rows_are_found_after_a_part_lost_some_of_its_songs(folder: str) -> None:
    tables.write_part(folder, "part", pa.table({"song_id": ["a", "b", "c"]}))
    assert tables.read_rows(folder, ["a", "c"], ["song_id"]).num_rows == 2
    tables.write_part(folder, "part", pa.table({"song_id": ["b"]}))
    assert tables.read_rows(folder, ["a", "b", "c"], ["song_id"])["song_id"].to_pylist() == ["b"]


def parts_of_ten(folder: str, count: int) -> dict[str, tuple[str, str]]:
    """Parts of ten songs each; what their record says."""
    said = {}
    for number in range(count):
        ids = [f"{number:02}-{song}" for song in range(10)]
        tables.write_part(folder, f"part-{number:02}", pa.table({"song_id": ids, "number": [number] * 10}))
        said[f"part-{number:02}"] = (ids[0], ids[-1])
    return said


def test_a_finished_folder_is_neither_listed_nor_are_other_parts_opened(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.record(folder, parts_of_ten(folder, 20))
    opened = names_opened(monkeypatch)
    monkeypatch.setattr(objects, "list_objects", lambda uri: pytest.fail(f"'{uri}' was listed"))
    found = tables.read_rows(folder, ["03-4", "05-0", "03-4"], ["number"])
    assert found.column_names == ["number"]
    assert sorted(found["number"].to_pylist()) == [3, 5]
    assert sorted(opened) == ["part-03.parquet", "part-05.parquet"]


def test_a_span_opens_the_parts_alone_that_may_hold_some_of_it(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = parts_of_ten(folder, 20)
    del said["part-19"]  # added since
    tables.record(folder, said)
    opened = names_opened(monkeypatch)
    found = tables.read_table(folder, ["song_id"], within=("07-5", "09-0"))["song_id"].to_pylist()
    assert (found[0], found[-1], len(found)) == ("07-5", "08-9", 15)
    assert sorted(opened) == ["part-07.parquet", "part-08.parquet", "part-19.parquet"]


def test_a_record_of_before_a_change_hides_no_song(folder: str) -> None:
    tables.record(folder, parts_of_ten(folder, 3))
    tables.write_part(folder, "added", pa.table({"song_id": ["05-0"], "number": [5]}))
    assert sorted(tables.read_rows(folder, ["00-3", "05-0"], ["number"])["number"].to_pylist()) == [0, 5]
    tables.write_part(folder, "merged", tables.read_part(objects.join(folder, "part-01.parquet")))
    objects.delete(objects.join(folder, "part-01.parquet"))
    assert tables.read_rows(folder, ["01-7"], ["song_id"])["song_id"].to_pylist() == ["01-7"]
    assert tables.read_rows(folder, ["99-0"], ["song_id"]).num_rows == 0
    tables.invalidate(folder)
    assert tables.recorded(folder) is None


def test_a_record_that_cannot_be_read_is_named(folder: str) -> None:
    tables.record(folder, parts_of_ten(folder, 1))
    objects.put(objects.join(folder, "_parts.json"), b"[1]")
    with pytest.raises(Corrupt, match=r"_parts\.json' cannot be read .*delete it"):
        tables.read_rows(folder, ["00-1"], ["song_id"])


def test_song_ids_come_once_for_each_part_that_has_them(folder: str) -> None:
    tables.write_part(folder, "a", pa.table({"song_id": ["a", "a", "b", "b"]}))
    tables.write_part(folder, "b", pa.table({"song_id": ["b", "c"]}))
    assert tables.song_ids(folder).to_pylist() == ["a", "b", "b", "c"]
    with pytest.raises(StageMissing, match="gatefold covers"):
        tables.song_ids(objects.join(folder, "none"), stage="covers")
