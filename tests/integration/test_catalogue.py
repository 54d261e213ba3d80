"""The catalogue on real local Ray, from a disk and from S3: a source goes in, and the workspace follows it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from gatefold.config import BatchSettings, Settings
from gatefold.errors import InvalidManifest, StageMissing, StorageUnavailable, TooManyRejects
from gatefold.images.pixels import decode_cover
from gatefold.progress import NOTHING, silent
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.embedded_pictures import read_cover
from gatefold.workspace import Workspace
from pipelines.catalogue import etags
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.extraction.rejects import read_rejects
from pipelines.report import Report, read_report
from pipelines.row_mapper import map_rows

MUSIC = Path(__file__).parents[2] / "gatefold" / "examples"
LENIENT = Settings(batch=BatchSettings(max_reject_share=1.0))


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, ray_cluster: str, tmp_path: Path) -> str:
    """An empty folder of each kind of storage."""
    return objects.resolve(str(tmp_path)) if request.param == "file" else f"{ray_cluster}/{request.node.name}"


def upload(folder: str, *names: str) -> None:
    for name in names:
        objects.put(objects.join(folder, name), (MUSIC / Path(name).name).read_bytes())


def by_id(workspace: Workspace) -> dict[str, dict[str, str | None]]:
    return {track["song_id"]: track for track in catalogues.read_tracks(workspace).to_pylist()}


def state(workspace: Workspace) -> list[tuple[str, str | None]]:
    return [(info.uri, info.etag) for info in objects.list_objects(workspace.catalogue)]


def test_a_scanned_folder_gives_tags_and_embedded_covers(place: str) -> None:
    upload(f"{place}/music", *(path.name for path in MUSIC.iterdir() if path.suffix != ".csv"))
    workspace = Workspace(f"{place}/workspace")
    report = build_catalogue(Settings(), f"{place}/music", workspace)
    assert (report.done, report.skipped, report.rejected) == (17, 0, 0)
    assert read_report(workspace, "catalogue") == report
    tracks = by_id(workspace)
    expected = {row["file"]: row for row in pyarrow.csv.read_csv(MUSIC / "ATTRIBUTION.csv").to_pylist()}
    assert set(tracks) == set(expected)
    assert all(tracks[name]["artist"] == row["artist"] for name, row in expected.items())
    assert tracks["15_synth_cc0.wav"]["genre"] == "Electronic"
    covered = {name for name, track in tracks.items() if track["cover_uri"]}
    assert covered == {"08_hiphop_cc0_cover.mp3", "10_house_cc0_cover.m4a"}
    for name in covered:
        cover_uri = tracks[name]["cover_uri"]
        assert cover_uri == f"{place}/music/{name}#picture"
        assert decode_cover(read_cover(cover_uri, 10**7), Settings().cover).shape == (3, 64, 64)


def test_the_same_source_again_changes_nothing(place: str) -> None:
    upload(f"{place}/music", "a/02_jazz.ogg", "b/11_polka.mp3")
    workspace = Workspace(f"{place}/workspace")
    build_catalogue(Settings(), f"{place}/music", workspace)
    before = state(workspace)
    report = build_catalogue(Settings(), f"{place}/music", workspace)
    assert (report.done, report.skipped) == (0, 2)
    assert state(workspace) == before


def test_a_scan_follows_what_is_added_changed_and_removed(place: str) -> None:
    music, workspace = f"{place}/music", Workspace(f"{place}/workspace")
    upload(music, "a/02_jazz.ogg", "b/11_polka.mp3", "b/10_house_cc0_cover.m4a")
    build_catalogue(Settings(), music, workspace)
    objects.put(f"{music}/b/11_polka.mp3", (MUSIC / "14_chiptune.mp3").read_bytes())
    objects.put(f"{music}/b/Folder.JPG", b"a picture")
    objects.put(f"{music}/b/cover.png", b"a better one")
    objects.delete(f"{music}/a/02_jazz.ogg")
    upload(music, "c/07_electronica.ogg")
    report = build_catalogue(Settings(), music, workspace)
    tracks = by_id(workspace)
    assert set(tracks) == {"b/11_polka.mp3", "b/10_house_cc0_cover.m4a", "c/07_electronica.ogg"}
    assert tracks["b/11_polka.mp3"]["artist"] == "sawsquarenoise"
    assert tracks["b/11_polka.mp3"]["cover_uri"] == f"{music}/b/cover.png"
    assert tracks["b/10_house_cc0_cover.m4a"]["cover_uri"] == f"{music}/b/10_house_cc0_cover.m4a#picture"
    assert tracks["c/07_electronica.ogg"]["cover_uri"] is None
    assert (report.done, report.skipped) == (2, 1)
    assert [report.details[key] for key in ("added", "updated", "removed")] == [1, 1, 1]


def test_a_file_whose_tags_cannot_be_read_is_a_reject_and_the_others_go_on(place: str) -> None:
    music, workspace = f"{place}/music", Workspace(f"{place}/workspace")
    upload(music, "02_jazz.ogg")
    objects.put(f"{music}/broken #1.mp3", b"no music at all")
    objects.put(f"{music}/empty.flac", b"")
    report = build_catalogue(LENIENT, music, workspace)
    assert set(by_id(workspace)) == {"02_jazz.ogg"}
    rejects = {row["song_id"]: row for row in read_rejects(workspace, "catalogue").to_pylist()}
    assert set(rejects) == {"broken #1.mp3", "empty.flac"}
    assert rejects["broken #1.mp3"]["code"] == "undecodable_audio"
    assert rejects["broken #1.mp3"]["uri"] == objects.join(music, "broken #1.mp3")
    assert report.rejected == 2
    objects.delete(objects.join(music, "broken #1.mp3"))
    objects.delete(f"{music}/empty.flac")
    build_catalogue(LENIENT, music, workspace)
    assert read_rejects(workspace).num_rows == 0


def write_csv(uri: str, *rows: str) -> None:
    objects.put(uri, "\n".join(rows).encode())


def write_jsonl(uri: str, *rows: str) -> None:
    header = rows[0].split(",")
    lines = [dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]
    given = [{key: value for key, value in line.items() if value} for line in lines]
    objects.put(uri, "\n".join(json.dumps(line) for line in given).encode())


def write_parquet(uri: str, *rows: str) -> None:
    header = rows[0].split(",")
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(zip(header, row.split(","), strict=True)) for row in rows[1:]]), sink)
    objects.put(uri, sink.getvalue().to_pybytes())


WRITERS = [(".csv", write_csv), (".jsonl", write_jsonl), (".parquet", write_parquet)]


@pytest.mark.parametrize(("suffix", "write"), WRITERS, ids=["csv", "jsonl", "parquet"])
def test_a_manifest_is_read_with_its_relative_uris_and_what_it_carries(
    place: str, suffix: str, write: Callable[..., None]
) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/lists/songs{suffix}"
    upload(f"{place}/lists", "sub folder/02_jazz.ogg", "10_house_cc0_cover.m4a")
    rows = ["007,sub folder/02_jazz.ogg,,NA,Ann,,test,happy",
            "b,10_house_cc0_cover.m4a,10_house_cc0_cover.m4a#picture,Two,Bob,X,,sad"]
    write(manifest, "song_id,audio_uri,cover_uri,title,artist,album,split,mood", *rows)
    report = build_catalogue(Settings(), manifest, workspace)
    assert (report.done, report.rejected) == (2, 0)
    table = catalogues.read_tracks(workspace)
    assert table.column_names == [*TRACKS.names, "mood"]
    tracks = by_id(workspace)
    assert tracks["007"]["audio_uri"] == objects.join(place, "lists", "sub folder/02_jazz.ogg")
    assert (tracks["007"]["title"], tracks["007"]["split"], tracks["007"]["mood"]) == ("NA", "test", "happy")
    assert (tracks["007"]["album"], tracks["007"]["cover_uri"]) == (None, None)
    assert read_cover(str(tracks["b"]["cover_uri"]), 10**7)[:2] == b"\xff\xd8"
    before = state(workspace)
    assert build_catalogue(Settings(), manifest, workspace).skipped == 2
    assert state(workspace) == before


def test_a_manifest_row_without_its_file_is_a_reject_that_names_row_and_value(place: str) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/songs.csv"
    upload(place, "02_jazz.ogg", "11_polka.mp3")
    write_csv(manifest, "song_id,audio_uri,cover_uri", "a,02_jazz.ogg,", "b,lost.mp3,", "c,ftp://x/y.mp3,",
              "d,11_polka.mp3,lost.png")
    report = build_catalogue(LENIENT, manifest, workspace)
    tracks = by_id(workspace)
    assert set(tracks) == {"a", "d"}
    assert tracks["d"]["cover_uri"] is None
    rejects = {row["song_id"]: row for row in read_rejects(workspace, "catalogue").to_pylist()}
    assert rejects["b"]["message"].startswith(f"row 2, audio_uri: '{place}/lost.mp3' does not exist")
    assert rejects["c"]["message"].startswith("row 3, audio_uri: location 'ftp://x/y.mp3'")
    assert rejects["d"]["message"].startswith("row 4, cover_uri: ")
    assert (report.rejected, report.details["songs"]) == (3, 2)
    upload(place, "04_classical_celesta.mp3")
    write_csv(manifest, "song_id,audio_uri", "a,02_jazz.ogg", "b,04_classical_celesta.mp3")
    report = build_catalogue(LENIENT, manifest, workspace)
    assert set(by_id(workspace)) == {"a", "b"}
    assert (report.done, report.skipped, report.rejected) == (1, 1, 0)


def changes(report: Report) -> list[object]:
    return [report.details[key] for key in ("added", "updated", "removed")]


def test_changed_audio_and_a_changed_cover_are_noticed_under_the_same_uri(place: str) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/songs.csv"
    upload(place, "02_jazz.ogg", "11_polka.mp3", "10_house_cc0_cover.m4a")
    objects.put(f"{place}/p.png", b"a picture")
    write_csv(manifest, "song_id,audio_uri,cover_uri", "a,02_jazz.ogg,", "b,11_polka.mp3,p.png",
              "c,10_house_cc0_cover.m4a,10_house_cc0_cover.m4a#picture")
    build_catalogue(Settings(), manifest, workspace)
    before, fingerprint = by_id(workspace), catalogues.current(workspace)
    assert before["b"]["audio_etag"] == objects.stat(f"{place}/11_polka.mp3").etag
    assert before["b"]["cover_etag"] == objects.stat(f"{place}/p.png").etag
    assert before["c"]["cover_etag"] == before["c"]["audio_etag"]
    assert before["a"]["cover_etag"] is None
    objects.put(f"{place}/02_jazz.ogg", (MUSIC / "07_electronica.ogg").read_bytes())
    objects.put(f"{place}/p.png", b"another picture")
    report = build_catalogue(Settings(), manifest, workspace)
    after = by_id(workspace)
    assert (report.done, report.skipped, changes(report)) == (2, 1, [0, 2, 0])
    assert after["a"]["audio_etag"] != before["a"]["audio_etag"]
    assert after["b"]["audio_etag"] == before["b"]["audio_etag"]
    assert after["b"]["cover_etag"] != before["b"]["cover_etag"]
    assert catalogues.current(workspace) != fingerprint
    unchanged = state(workspace)
    assert build_catalogue(Settings(), manifest, workspace).done == 0
    assert state(workspace) == unchanged


def test_a_song_whose_file_vanished_is_a_reject_until_the_file_is_back(place: str) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/songs.csv"
    upload(place, "02_jazz.ogg", "11_polka.mp3")
    write_csv(manifest, "song_id,audio_uri", "a,02_jazz.ogg", "b,11_polka.mp3")
    build_catalogue(Settings(), manifest, workspace)
    objects.delete(f"{place}/11_polka.mp3")
    report = build_catalogue(LENIENT, manifest, workspace)
    assert (set(by_id(workspace)), report.rejected, changes(report)) == ({"a"}, 1, [0, 0, 1])
    (reject,) = read_rejects(workspace, "catalogue").to_pylist()
    assert (reject["song_id"], reject["code"]) == ("b", "object_not_found")
    assert reject["message"].startswith(f"row 2, audio_uri: '{place}/11_polka.mp3' does not exist")
    upload(place, "11_polka.mp3")
    report = build_catalogue(LENIENT, manifest, workspace)
    assert (set(by_id(workspace)), report.rejected, changes(report)) == ({"a", "b"}, 0, [1, 0, 0])
    assert read_rejects(workspace).num_rows == 0


def test_a_manifest_with_etags_of_its_own_is_believed_without_a_look(place: str) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/songs.csv"
    upload(place, "02_jazz.ogg")
    head = "song_id,audio_uri,cover_uri,audio_etag,cover_etag"
    inside, given = "b,nowhere/b.m4a,nowhere/b.m4a#picture,e2,", "c,nowhere/c.mp3,nowhere/c.png,e3,e4"
    write_csv(manifest, head, "a,02_jazz.ogg,,,", inside, given)
    report = build_catalogue(Settings(), manifest, workspace)
    assert (report.done, report.rejected) == (3, 0)
    tracks = by_id(workspace)
    assert tracks["a"]["audio_etag"] == objects.stat(f"{place}/02_jazz.ogg").etag
    assert [(tracks[i]["audio_etag"], tracks[i]["cover_etag"]) for i in "bc"] == [("e2", "e2"), ("e3", "e4")]
    write_csv(manifest, head, "a,02_jazz.ogg,,,", inside, given.replace("e3", "e5"))
    report = build_catalogue(Settings(), manifest, workspace)
    assert (report.done, report.skipped, changes(report)) == (1, 2, [0, 1, 0])


def test_a_song_without_audio_and_cover_is_one_reject(place: str) -> None:
    workspace, manifest = Workspace(f"{place}/workspace"), f"{place}/songs.csv"
    upload(place, "02_jazz.ogg")
    write_csv(manifest, "song_id,audio_uri,cover_uri", "a,02_jazz.ogg,", "b,lost.mp3,lost.png",
              "c,ftp://x/c.mp3,ftp://x/c.png")
    build_catalogue(LENIENT, manifest, workspace)
    rejects = read_rejects(workspace, "catalogue").to_pylist()
    assert {reject["song_id"]: objects.name(reject["uri"]) for reject in rejects} == {"b": "lost.mp3", "c": "c.mp3"}
    assert len(rejects) == 2


class Unasked:
    """A store that is listed and never asked for one object."""

    list_folder = staticmethod(objects.list_folder)


def test_a_listing_gives_the_etags_that_asking_would(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uris = [objects.join(place, "many", f"song #{number}.mp3") for number in range(12)]
    for uri in [*uris, f"{place}/many/below/x.mp3"]:
        objects.put(uri, uri.encode())
    expected = {uri: objects.stat(uri).etag for uri in uris}
    monkeypatch.setattr(etags, "objects", Unasked())
    found = etags.find_etags(pa.array(uris, pa.large_string()), silent)
    assert dict(zip(found["uri"].to_pylist(), found["etag"].to_pylist(), strict=True)) == expected


def test_many_small_folders_are_looked_through_by_the_workers(ray_cluster: str, tmp_path: Path) -> None:
    assert ray_cluster
    rows = [f"{folder}-{song},{folder}/{song}.mp3" for folder in range(300) for song in range(9)]
    for folder in range(300):
        (tmp_path / str(folder)).mkdir()
        for song in range(9):
            (tmp_path / str(folder) / f"{song}.mp3").touch()
    (tmp_path / "299" / "8.mp3").unlink()
    manifest, workspace = (tmp_path / "songs.csv").as_uri(), Workspace((tmp_path / "workspace").as_uri())
    write_csv(manifest, "song_id,audio_uri", *rows)
    reported: list[int] = []
    report = build_catalogue(Settings(), manifest, workspace, lambda done, _, __=NOTHING: reported.append(done))
    assert (report.done, report.rejected, report.details["songs"]) == (2700, 1, 2699)
    assert (reported[-1], len(reported) > 2) == (2700, True)
    assert None not in catalogues.read_tracks(workspace)["audio_etag"].to_pylist()


def test_too_many_rejects_are_an_error_after_the_work_is_done(place: str) -> None:
    workspace = Workspace(f"{place}/workspace")
    upload(place, "02_jazz.ogg")
    write_csv(f"{place}/songs.csv", "song_id,audio_uri", "a,02_jazz.ogg", "b,lost.mp3")
    with pytest.raises(TooManyRejects, match=r"1 of 2 inputs .* \(50%, limit 20%\), most often object_not_found"):
        build_catalogue(Settings(), f"{place}/songs.csv", workspace)
    assert set(by_id(workspace)) == {"a"}


def test_a_source_without_songs_is_refused_and_the_catalogue_stays(place: str) -> None:
    workspace = Workspace(f"{place}/workspace")
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        catalogues.read_tracks(workspace)
    upload(f"{place}/music", "02_jazz.ogg")
    build_catalogue(Settings(), f"{place}/music", workspace)
    with pytest.raises(InvalidManifest, match=r"no manifest .* and no folder with audio"):
        build_catalogue(Settings(), f"{place}/nothing", workspace)
    assert set(by_id(workspace)) == {"02_jazz.ogg"}


def test_a_catalogue_on_disk_survives_odd_file_names(ray_cluster: str, tmp_path: Path) -> None:
    assert ray_cluster
    odd = ["a b.mp3", "100% #1.mp3", "ü?&=.mp3", "%20.mp3", "semi;colon+plus.mp3"]
    for name in odd:
        shutil.copyfile(MUSIC / "11_polka.mp3", tmp_path / name)
    workspace = Workspace(objects.resolve("workspace", str(tmp_path)))
    report = build_catalogue(Settings(), str(tmp_path), workspace)
    assert (report.done, report.rejected) == (5, 0)
    tracks = by_id(workspace)
    assert set(tracks) == set(odd)
    size = (MUSIC / "11_polka.mp3").stat().st_size
    assert [objects.stat(str(track["audio_uri"])).size_bytes for track in tracks.values()] == [size] * 5


def unavailable(table: pa.Table) -> pa.Table:
    raise StorageUnavailable(f"'s3://bucket': no answer for {table.num_rows} rows")


@pytest.mark.usefixtures("ray_cluster")
def test_an_error_in_a_worker_arrives_as_it_was_raised() -> None:
    with pytest.raises(StorageUnavailable) as caught:
        map_rows(pa.table({"row": [1, 2]}), unavailable, 1, silent)
    assert str(caught.value) == "'s3://bucket': no answer for 1 rows"
