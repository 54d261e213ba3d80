"""What an operator may hand in, and what is refused with row and value."""

import codecs
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gatefold.config import Settings
from gatefold.errors import InvalidManifest
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.catalogue.manifests import checked, is_manifest, read_manifest


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


# ---- manifests as people have them ----------------------------------------------------------------------------------

TEXT = "song_id,audio_uri,title\n007,a.mp3,Björk\n8,b c.mp3,1999-12-31\n"
LINES = '{"song_id": "007", "audio_uri": "a.mp3", "title": "Björk"}\n' + (
    '{"song_id": "8", "audio_uri": "b c.mp3", "title": "1999-12-31"}\n'
)
WRITTEN = {
    "m.CSV": TEXT.encode(),
    "m.Csv.GZ": gzip.compress(TEXT.encode()),
    "m.csv.gz": gzip.compress(TEXT.encode()),
    "utf16.csv": TEXT.encode("utf-16"),
    "utf16be.csv": codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
    "mark.csv": codecs.BOM_UTF8 + TEXT.encode(),
    "m.JSONL": LINES.encode(),
    "m.jsonl.gz": gzip.compress(LINES.encode()),
    "m.ndjson": codecs.BOM_UTF8 + LINES.encode(),
    "utf16.jsonl": LINES.encode("utf-16"),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_manifest_is_read_whatever_its_case_its_compression_and_its_encoding(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(WRITTEN[name])
    uri = objects.resolve(str(tmp_path / name))
    assert is_manifest(uri)
    rows = read_manifest(uri).select(["song_id", "audio_uri", "title"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("007", "a.mp3", "Björk"), ("8", "b c.mp3", "1999-12-31")]


@pytest.mark.parametrize("name", ["songs.parquet", "SONGS.Parquet", "songs"])
def test_a_folder_of_parquet_parts_is_one_manifest(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for number in range(3):
        ids = [f"{number}-{row}" for row in range(4)]
        more = {"mood": ["happy"] * 4} if number else {}
        part = pa.table({"song_id": ids, "audio_uri": ids, **more})
        pq.write_table(part, folder / f"part-{number:05}.snappy.parquet")
    for other in ("_SUCCESS", "._SUCCESS.crc", ".part-00000.snappy.parquet.crc"):
        (folder / other).write_bytes(b"crc")
    uri = objects.resolve(str(folder))
    assert is_manifest(uri)
    table = read_manifest(uri)
    assert table["song_id"].to_pylist() == [f"{number}-{row}" for number in range(3) for row in range(4)]
    assert table["mood"].to_pylist() == [None] * 4 + ["happy"] * 8


def test_a_folder_of_songs_is_no_manifest(tmp_path: Path) -> None:
    for name in ("a.mp3", "b.parquet"):
        (tmp_path / name).write_bytes(b"x")
    assert not is_manifest(objects.resolve(str(tmp_path)))
    assert not is_manifest(objects.resolve(str(tmp_path / "nowhere")))


def test_text_of_json_stays_text_at_any_depth(tmp_path: Path) -> None:
    lines = [
        {"song_id": "2024-01-01", "audio_uri": "a.mp3", "released": "1999-12-31", "bpm": 120, "in": ["2020-01-01"],
         "by": {"at": "2021-01-01 10:00:00"}},
        {"song_id": "2024-01-02", "audio_uri": "b.mp3", "released": "2000-01-01", "bpm": 90, "in": [], "by": None},
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = read_manifest(objects.resolve(str(tmp_path / "m.jsonl")))
    assert table.select(list(lines[0])).to_pylist() == lines


@pytest.mark.parametrize("name", ["title", "song_id", "mood"])
@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_one_name_for_two_columns_is_refused_by_name(tmp_path: Path, name: str, suffix: str) -> None:
    names, path = ["song_id", "audio_uri", "mood", "title", name], tmp_path / f"m.{suffix}"
    if suffix == "csv":
        path.write_text(",".join(names) + "\n1,a.mp3,x,y,z\n")
    elif suffix == "parquet":
        pq.write_table(pa.Table.from_arrays([pa.array(["x"])] * 5, names=names), path)
    else:
        path.write_text("{" + ", ".join(f'"{one}": "x"' for one in names) + "}\n")
    with pytest.raises(InvalidManifest, match=rf"{path.name}.*{name}"):
        read_manifest(objects.resolve(str(path)))


def test_a_carried_column_may_have_any_name(tmp_path: Path) -> None:
    names = ("row", "column", "uri", "code", "message", "etag", "stage", "at", "window", "carried: row", "index")
    carried = {name: [f"{name} {row}" for row in range(2)] for name in names}
    for number in range(2):
        (tmp_path / f"{number}.mp3").write_bytes(b"x")
    path = tmp_path / "m.parquet"
    pq.write_table(pa.table({"song_id": ["a", "b"], "audio_uri": ["0.mp3", "1.mp3"], **carried}), path)
    workspace = Workspace(objects.resolve(str(tmp_path / "workspace")))
    report = build_catalogue(Settings(), objects.resolve(str(path)), workspace)
    assert (report.done, report.rejected) == (2, 0)
    tracks = read_tracks(workspace)
    assert tracks.column_names == [*TRACKS.names, *carried]
    assert {name: tracks[name].to_pylist() for name in carried} == carried
    assert build_catalogue(Settings(), objects.resolve(str(path)), workspace).skipped == 2


BROKEN = gzip.compress(b"song_id\n" * 99, mtime=0)[:-9]


@pytest.mark.parametrize("data", [b"\x1f\x8b\x08\0broken", b"no gzip at all", BROKEN])
def test_a_damaged_archive_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.csv.gz").write_bytes(data)
    with pytest.raises(InvalidManifest, match=r"m\.csv\.gz' cannot be read"):
        read_manifest(objects.resolve(str(tmp_path / "m.csv.gz")))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("m.jsonl", b"null\n"),
        ("m.jsonl", b' \n\tnull\n{"song_id": "a", "audio_uri": "a.mp3"}\n'),
        ("m.jsonl", b'{"song_id": "a", "audio_uri": "a.mp3", "deep": ' + b"[" * 2_000 + b"]" * 2_000 + b"}"),
        ("m.csv", b"song_id,audio_uri,\xfe\n1,2,3\n"),
    ],
)
def test_what_only_looks_like_a_manifest_is_refused_by_its_name(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InvalidManifest, match=rf"{re.escape(name)}' cannot be read"):
        read_manifest(objects.resolve(str(tmp_path / name)))


@pytest.mark.parametrize("column", ["song_id", "title"])
def test_text_of_parquet_that_is_no_utf8_is_refused(tmp_path: Path, column: str) -> None:
    columns = {name: pa.array(["a", "b"]) for name in ("song_id", "audio_uri", "title")}
    broken = pa.array([b"\xff\xfe", b"b"])
    columns[column] = pa.Array.from_buffers(pa.string(), 2, broken.buffers())
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    with pytest.raises(InvalidManifest, match=r"m\.parquet' cannot be read: .*UTF8"):
        read_manifest(objects.resolve(str(tmp_path / "m.parquet")))


HARD = Path(__file__).parents[3] / "data" / "hard"
TITLES = {"manifest__date_title.jsonl": ["1999-12-31", "2000-01-01"], "manifest__date_ids.jsonl": [None, None],
          "manifest__UPPER.CSV": [None], "manifest__row_column.parquet": [None, None]}  # fmt: skip


@pytest.mark.parametrize("name", TITLES)
def test_hard_manifests_are_read(name: str) -> None:
    assert read_manifest(objects.resolve(str(HARD / name)))["title"].to_pylist() == TITLES[name]


@pytest.mark.parametrize(("name", "column"), [("manifest__dup_header.csv", "title"),
                                              ("manifest__dup_required.csv", "song_id")])  # fmt: skip
def test_hard_manifests_that_name_a_column_twice_are_refused(name: str, column: str) -> None:
    with pytest.raises(InvalidManifest, match=f"{name}' has more than one column named '{column}'"):
        read_manifest(objects.resolve(str(HARD / name)))


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("true,false,,YES,0,1,No", [True, False, False, True, False, True, False]),
        ("True,TRUE,true,true,true,true,true", [True] * 7),
    ],
)
def test_whether_a_cover_may_be_a_source_is_read_however_it_is_written(
    tmp_path: Path, written: str, read: list[bool]
) -> None:
    rows = [f"s{n},/{n}.mp3,{value}" for n, value in enumerate(written.split(","))]
    (tmp_path / "m.csv").write_text("\n".join(["song_id,audio_uri,may_be_source", *rows]))
    assert read_manifest((tmp_path / "m.csv").as_uri())["may_be_source"].to_pylist() == read


def test_what_is_neither_true_nor_false_is_refused_by_row_and_value(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("song_id,audio_uri,may_be_source\na,/a.mp3,true\nb,/b.mp3,maybe\n")
    with pytest.raises(InvalidManifest, match=r"row 2: 'maybe' is neither true nor false in column 'may_be_source'"):
        read_manifest((tmp_path / "m.csv").as_uri())
