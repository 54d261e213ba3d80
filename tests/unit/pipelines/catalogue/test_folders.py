"""A scan of a folder: it ends, one bad entry costs itself, and what is passed over is counted."""

import os
import shutil
from pathlib import Path

import pytest

from gatefold.errors import InvalidManifest, StorageDenied
from gatefold.storage import objects
from gatefold.storage.uris import ObjectInfo
from pipelines.catalogue.folders import list_files
from pipelines.catalogue.scanning import list_songs, scan

MP3 = Path(__file__).parents[4] / "gatefold" / "examples" / "11_polka.mp3"


def write(folder: Path, *names: str) -> str:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return objects.resolve(str(folder))


def songs(folder: str) -> list[str]:
    found: list[str] = list_songs(folder)["song_id"].to_pylist()
    return found


def test_a_dot_in_front_hides_a_file_but_not_a_song_that_is_called_so(tmp_path: Path) -> None:
    hidden = (".DS_Store", "._x.mp3", ".hidden.mp3", ".Trash-1000/files/a.mp3", ".git/b.mp3")
    folder = write(tmp_path, "...Baby One More Time.mp3", ".45.mp3", "...And Justice for All/One.mp3", *hidden)
    table, passed_over = scan(folder)
    assert table["song_id"].to_pylist() == [
        "...And Justice for All/One.mp3", "...Baby One More Time.mp3", ".45.mp3"
    ]  # fmt: skip
    assert passed_over == {"hidden": {"": 1, ".mp3": 2, "/": 2}}


@pytest.mark.parametrize("name", ["#recycle", "lost+found", "@eaDir", "$RECYCLE.BIN", "System Volume Information"])
def test_what_systems_keep_for_themselves_is_no_music(tmp_path: Path, name: str) -> None:
    table, passed_over = scan(write(tmp_path, "a.mp3", f"{name}/a.mp3", f"b/{name}/deep/c.mp3"))
    assert table["song_id"].to_pylist() == ["a.mp3"]
    assert passed_over == {"in a system folder": {"/": 2}}


def test_every_folder_is_entered_once_whatever_leads_to_it(tmp_path: Path) -> None:
    folder = write(tmp_path / "music", "z/a.mp3", "y/b.mp3")
    elsewhere = tmp_path / "elsewhere"
    write(elsewhere, "c.mp3")
    (elsewhere / "back").symlink_to(tmp_path / "music")
    (tmp_path / "music" / "a loop").symlink_to(tmp_path / "music")
    (tmp_path / "music" / "z" / "up").symlink_to("..")
    (tmp_path / "music" / "again").symlink_to(tmp_path / "music" / "z")
    (tmp_path / "music" / "other").symlink_to(elsewhere)
    (tmp_path / "music" / "twice").symlink_to(elsewhere)
    (tmp_path / "music" / "itself").symlink_to("itself")
    (tmp_path / "music" / "lost.mp3").symlink_to("nowhere")
    assert songs(folder) == ["other/c.mp3", "y/b.mp3", "z/a.mp3"]
    assert scan(folder)[1] == {"a link to nothing": {".mp3": 1}, "unreadable": {"": 1}}


@pytest.mark.timeout(20)
def test_a_pipe_or_a_socket_with_the_name_of_a_song_is_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.mp3")
    os.mkfifo(tmp_path / "pipe.mp3")
    table, passed_over = scan(folder)
    assert table["song_id"].to_pylist() == ["a.mp3"]
    assert passed_over == {"no regular file": {".mp3": 1}}


def test_an_entry_that_cannot_be_read_costs_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path, "a.mp3", "shut/b.mp3", "bad.mp3")
    scandir, stat = os.scandir, objects.stat

    def scandir_but(path: Path) -> object:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def stat_but(uri: str) -> ObjectInfo:
        if uri.endswith("bad.mp3"):
            raise StorageDenied(f"'{uri}': Permission denied")
        return stat(uri)

    monkeypatch.setattr(os, "scandir", scandir_but)
    monkeypatch.setattr(objects, "stat", stat_but)
    table, passed_over = scan(folder)
    assert table["song_id"].to_pylist() == ["a.mp3"]
    assert passed_over == {"unreadable": {".mp3": 1, "/": 1}}


def test_a_folder_that_may_not_be_read_at_all_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageDenied, match="Permission denied"):
        list_files(objects.resolve(str(tmp_path)))


def test_what_is_passed_over_is_counted_by_reason_and_suffix(tmp_path: Path) -> None:
    folder = write(tmp_path, "a.mp3", "b.txt", "c.TXT", "d", "back.jpg", "cover.jpg", "e/f.cue")
    assert scan(folder)[1] == {"no suffix of a song": {"": 1, ".cue": 1, ".jpg": 1, ".txt": 2}}


@pytest.mark.parametrize("suffix", ["aif", "aiff", "AIFC", "m4b", "mp2", "oga", "M4A", "wave"])
def test_songs_are_listed_by_every_suffix_that_songs_have(tmp_path: Path, suffix: str) -> None:
    assert songs(write(tmp_path, f"a.{suffix}")) == [f"a.{suffix}"]


@pytest.mark.parametrize(
    "name", ["front.jpg", "Front.JPEG", "AlbumArtSmall.jpg", "AlbumArt_{9D-42}_Large.jpg", "COVER.webp", "Folder.PNG"]
)
def test_a_cover_beside_is_known_by_many_names(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, "a.mp3", name)
    assert list_songs(folder)["album_cover"].to_pylist() == [objects.join(folder, name)]


def test_a_disc_of_an_album_has_the_cover_above_it(tmp_path: Path) -> None:
    names = ["x/CD1/a.mp3", "x/Disc 2/b.mp3", "x/CD3/c.mp3", "x/CD3/cover.jpg", "x/live/d.mp3", "x/folder.jpg"]
    folder = write(tmp_path, *names)
    found = dict(zip(songs(folder), list_songs(folder)["album_cover"].to_pylist(), strict=True))
    above = objects.join(folder, "x/folder.jpg")
    assert found == {
        "x/CD1/a.mp3": above, "x/Disc 2/b.mp3": above, "x/CD3/c.mp3": objects.join(folder, "x/CD3/cover.jpg"),
        "x/live/d.mp3": None,
    }  # fmt: skip


def test_keys_of_a_bucket_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["a//b.mp3", "a//cover.jpg", "a/.Trash-1000/c.mp3", "#recycle/d.mp3", ".45.mp3", "e/._f.mp3"]
    infos = [ObjectInfo(f"s3://bucket/music/{key}", 1, None, "tag") for key in keys]
    monkeypatch.setattr(objects, "list_objects", lambda _: iter(infos))
    table, passed_over = scan("s3://bucket/music")
    assert table["song_id"].to_pylist() == [".45.mp3", "a//b.mp3"]
    assert table["audio_uri"].to_pylist()[1] == "s3://bucket/music/a//b.mp3"
    assert table["album_cover"].to_pylist() == [None, "s3://bucket/music/a//cover.jpg"]
    assert passed_over == {"hidden": {".mp3": 2}, "in a system folder": {".mp3": 1}}


def test_names_that_are_no_utf8_have_ids_and_are_found_again(tmp_path: Path) -> None:
    folder = objects.resolve(str(tmp_path))
    shutil.copyfile(MP3, os.path.join(os.fsencode(tmp_path), b"bj\xf6rk.mp3"))  # noqa: PTH118 - bytes
    table = list_songs(folder)
    assert table["song_id"].to_pylist() == ["bj\\xf6rk.mp3"]
    assert objects.read(table["audio_uri"].to_pylist()[0]) == MP3.read_bytes()


def test_a_folder_of_nothing_but_what_is_passed_over_holds_no_audio(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match="no folder with audio"):
        scan(write(tmp_path, "._a.mp3", "b.txt"))


def test_two_names_of_one_id_make_one_song(tmp_path: Path) -> None:
    for name in (b"\xff.flac", b"\\xff.flac", b"other.flac"):
        (Path(os.fsdecode(bytes(tmp_path))) / os.fsdecode(name)).write_bytes(b"x")
    songs, passed_over = scan(objects.resolve(str(tmp_path)))
    assert songs["song_id"].to_pylist() == ["\\xff.flac", "other.flac"]
    assert passed_over["the path of another song"] == {".flac": 1}
