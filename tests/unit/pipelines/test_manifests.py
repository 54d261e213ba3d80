"""What an operator may hand in, and what is refused with row and value."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatefold.errors import InvalidManifest
from gatefold.records import TRACKS
from gatefold.storage import objects
from pipelines.manifests import checked, read_manifest


def csv(tmp_path: Path, text: str) -> str:
    (tmp_path / "songs.csv").write_text(text)
    return objects.resolve(str(tmp_path / "songs.csv"))


def test_ids_and_titles_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    table = read_manifest(csv(tmp_path, 'song_id,audio_uri,title,bpm\n007,a.mp3,NA,120\n1e3,"b, c.mp3",null,\n'))
    assert table.column_names == [*TRACKS.names, "bpm"]
    assert table["song_id"].to_pylist() == ["007", "1e3"]
    assert table["audio_uri"].to_pylist() == ["a.mp3", "b, c.mp3"]
    assert table["title"].to_pylist() == ["NA", "null"]
    assert table["bpm"].to_pylist() == [120, None]


def test_blank_values_are_none_at_all(tmp_path: Path) -> None:
    table = read_manifest(csv(tmp_path, "song_id,audio_uri,artist,split,mood\na,x.mp3,  ,,\n"))
    assert table.select(["artist", "split", "mood", "cover_uri"]).to_pylist() == [
        {"artist": None, "split": None, "mood": None, "cover_uri": None}
    ]


def test_whole_numbers_and_dictionaries_serve_as_ids() -> None:
    table = pa.table({"song_id": pa.array([1, 2]), "audio_uri": pa.array(["a", "b"]).dictionary_encode()})
    assert checked(table, "m").select(["song_id", "audio_uri"]).to_pylist() == [
        {"song_id": "1", "audio_uri": "a"},
        {"song_id": "2", "audio_uri": "b"},
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("song_id,file\na,x\n", r"lacks the columns \['audio_uri'\]; it has \['song_id', 'file'\]"),
        ("song_id,audio_uri\n", "has no rows"),
        ("", "cannot be read"),
        ("song_id,audio_uri\na,x\n ,y\n,z\n", r"row 2: .*song_id is empty; every row needs one \(2 such rows\)"),
        ("song_id,audio_uri\na,x\nb,\n", "row 2: audio_uri is empty"),
        ("song_id,audio_uri\na,x\nb,y\na,z\n", "row 3: song_id 'a' stands in row 1 already"),
        ("song_id,audio_uri,split\na,x,train\nb,y,dev\n", "row 2: 'dev' is no split; allowed: train, validation, test"),
        ("song_id,audio_uri\na,x\nb,y,z\n", "cannot be read: CSV parse error: .*got 3: b,y,z"),
    ],
)
def test_a_faulty_manifest_is_refused_naming_row_and_value(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidManifest, match=why) as caught:
        read_manifest(csv(tmp_path, text))
    assert "songs.csv" in str(caught.value)


def test_a_broken_line_of_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"song_id": "a", "audio_uri": "x"}\n{"song_id": "b", "audio_uri"\n')
    with pytest.raises(InvalidManifest, match="row 1"):
        read_manifest(objects.resolve(str(tmp_path / "m.jsonl")))


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"song_id,audio_uri")
    with pytest.raises(InvalidManifest, match=r"m\.parquet' cannot be read"):
        read_manifest(objects.resolve(str(tmp_path / "m.parquet")))


def test_ids_that_are_no_text_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"song_id": [1.5], "audio_uri": ["x"]}), tmp_path / "m.parquet")
    with pytest.raises(InvalidManifest, match="column 'song_id' is double; allowed: text or whole numbers"):
        read_manifest(objects.resolve(str(tmp_path / "m.parquet")))
