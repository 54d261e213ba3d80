"""The parts of the catalogue that need no Ray: splits, scans of a folder, tags, and what a catalogue on record is."""

import base64
import shutil
import struct
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from mutagen.flac import FLAC, Picture
from mutagen.mp3 import MP3
from mutagen.oggvorbis import OggVorbis

from gatefold.config import Settings, SplitSettings
from gatefold.errors import (
    EmptyFile,
    InvalidManifest,
    ObjectNotFound,
    StageMissing,
    StorageUnavailable,
    TooLarge,
    UndecodableAudio,
)
from gatefold.ranged import BytesSource, RangedFile
from gatefold.records import split_of
from gatefold.storage import objects
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.embedded_pictures import open_audio, read_cover, tags_of
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue, with_splits
from pipelines.catalogue.scanning import list_songs
from pipelines.catalogue.tags import read_tags

MUSIC = Path(__file__).parents[4] / "gatefold" / "examples"


def tracks(**columns: Sequence[str | None]) -> pa.Table:
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


def test_splits_are_those_of_the_one_rule_and_the_given_ones_stay() -> None:
    shares = SplitSettings(validation=0.3, test=0.3)
    ids = [f"s{n}" for n in range(60)]
    artists = [f"Artist {n % 7}" if n % 3 else (None, "\u00a0", "  ")[n % 9 // 3] for n in range(60)]
    albums = [f"Album {n % 5}" if n % 2 else (None, "\u3000")[n % 4 // 2] for n in range(60)]
    ids[-1] = "\u00a0"  # blank, and yet an id
    given = ["test" if n == 1 else None for n in range(60)]
    table = tracks(song_id=ids, artist=artists, album=albums, split=given)
    expected = [split_of(shares, artist=artist, album=album, song_id=song_id)
                for song_id, artist, album in zip(ids, artists, albums, strict=True)]
    expected[1] = "test"
    assert with_splits(table, shares).to_pylist() == expected
    assert set(expected) == {"train", "validation", "test"}


def test_a_catalogue_may_have_none_of_the_songs_that_it_had(tmp_path: Path) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path / "workspace")))
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    for song_id in ("one", "other"):
        (tmp_path / "m.csv").write_text(f"song_id,audio_uri\n{song_id},a.wav\n")
        report = build_catalogue(Settings(), str(tmp_path / "m.csv"), workspace)
    assert [report.details[key] for key in ("added", "updated", "removed")] == [1, 0, 1]
    assert catalogues.read_tracks(workspace)["song_id"].to_pylist() == ["other"]


def test_a_scan_finds_audio_and_the_best_cover_beside_it(tmp_path: Path) -> None:
    for name in ("a/x.MP3", "a/y.flac", "a/folder.jpg", "a/Cover.PNG", "b/z.ogg", "b/notes.txt", "b/.hidden.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    folder = objects.resolve(str(tmp_path))
    songs = list_songs(folder)
    assert songs["song_id"].to_pylist() == ["a/x.MP3", "a/y.flac", "b/z.ogg"]
    assert songs["album_cover"].to_pylist() == [f"{folder}/a/Cover.PNG", f"{folder}/a/Cover.PNG", None]
    assert songs["row"].to_pylist() == [0, 1, 2]


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidManifest, match=r"no folder with audio .*\.flac"):
        list_songs(objects.resolve(str(tmp_path)))


@pytest.mark.parametrize(
    ("file", "title", "artist", "genre"),
    [
        ("15_synth_cc0.wav", "Synthgroove", "HeroOfTheWinds (Jordach's Mix)", "Electronic"),
        ("09_lofi_cc0.ogg", "Fire Place", "HoliznaCC0", "Lo-fi"),
        ("16_acoustic_guitar.flac", "Inspiring Acoustic Uplifting Soft Background", "RomanSenykMusic", "Acoustic"),
        ("11_polka.mp3", "Four Beers' Polka", "Kevin MacLeod", "Polka"),
        ("05_country_folk_vocals.m4a", "Let's Go Fishin'", "Karissa Hobbs", "Folk/Country (vocals)"),
        ("13_silent_film_piano.opus", "Hand Trolley", "Kevin MacLeod", "Silent Film Score"),
    ],
)
def test_tags_of_every_format_are_read(file: str, title: str, artist: str, genre: str) -> None:
    tags = read_tags(objects.resolve(str(MUSIC / file)))
    assert (tags.title, tags.artist, tags.genre, tags.has_picture) == (title, artist, genre, False)


def test_a_file_without_tags_has_none(tmp_path: Path) -> None:
    path = tmp_path / "bare.mp3"
    shutil.copyfile(MUSIC / "11_polka.mp3", path)
    MP3(path).delete()
    tags = read_tags(objects.resolve(str(path)))
    assert (tags.title, tags.artist, tags.album, tags.genre, tags.has_picture) == (None, None, None, None, False)


def test_a_file_that_is_no_audio_is_reported_as_such(tmp_path: Path) -> None:
    for name, data in (("a.mp3", b"text"), ("b.flac", b"a picture"), ("c.ogg", b"RIFF\0\0\0\0WEBP" + b"\0" * 60)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UndecodableAudio, match=name):
            read_tags(objects.resolve(str(tmp_path / name)))
    (tmp_path / "d.wav").touch()
    with pytest.raises(EmptyFile, match=r"d\.wav"):
        read_tags(objects.resolve(str(tmp_path / "d.wav")))


def test_the_front_cover_is_preferred_in_flac_and_ogg(tmp_path: Path) -> None:
    pictures = []
    for kind, data in ((4, b"the back"), (3, b"the front")):
        picture = Picture()
        picture.type, picture.data, picture.mime = kind, data, "image/png"
        pictures.append(picture)
    shutil.copyfile(MUSIC / "16_acoustic_guitar.flac", tmp_path / "x.flac")
    flac = FLAC(tmp_path / "x.flac")
    for picture in pictures:
        flac.add_picture(picture)
    flac.save()
    shutil.copyfile(MUSIC / "09_lofi_cc0.ogg", tmp_path / "x.ogg")
    ogg = OggVorbis(tmp_path / "x.ogg")
    ogg["metadata_block_picture"] = [base64.b64encode(picture.write()).decode() for picture in pictures] + ["damaged"]
    ogg.save()
    for name in ("x.flac", "x.ogg"):
        uri = objects.resolve(str(tmp_path / name))
        assert read_tags(uri).has_picture
        assert read_cover(f"{uri}#picture", 100) == b"the front"
        with pytest.raises(TooLarge, match="9 bytes, limit 8"):
            read_cover(f"{uri}#picture", 8)


def test_a_picture_that_is_gone_is_not_found(tmp_path: Path) -> None:
    uri = objects.resolve(str(MUSIC / "11_polka.mp3"))
    with pytest.raises(ObjectNotFound, match="holds no picture"):
        read_cover(f"{uri}#picture", 100)
    with pytest.raises(ObjectNotFound):
        read_cover(objects.resolve(str(tmp_path / "lost.mp3")) + "#picture", 100)


def test_a_ranged_file_reads_as_the_file_itself() -> None:
    path = MUSIC / "12_blues_kit_organ.flac"
    with path.open("rb") as plain, open_audio(objects.resolve(str(path))) as ranged:
        for place, length in ((0, 10), (65_530, 12), (131_072, 65_536), (5, 300_000), (516_600, 100), (600_000, 5)):
            assert ranged.seek(place) == plain.seek(place)
            assert ranged.read(length) == plain.read(length)
            assert ranged.tell() == plain.tell()
        assert ranged.seek(-4, 2) == plain.seek(-4, 2)
        assert ranged.read() == plain.read()


def test_tags_that_cannot_be_fetched_are_the_fault_of_the_store_and_not_of_the_song() -> None:
    class Failing(BytesSource):
        def read_at(self, offset: int, length: int) -> bytes | memoryview:
            if offset:
                raise StorageUnavailable("the store is away")
            return super().read_at(offset, length)

    data = (MUSIC / "09_lofi_cc0.ogg").read_bytes()
    with pytest.raises(StorageUnavailable, match="the store is away"):
        tags_of(RangedFile(Failing(data), len(data), "a.ogg"), "a.ogg")
    large = tags_of(RangedFile(BytesSource(data), 4_000, "a.ogg"), "a.ogg")
    assert (large.unreadable, large.texts) == (True, {})


def test_a_wav_without_its_list_of_info_is_still_a_song(tmp_path: Path) -> None:
    body = struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16, b"data", 200) + b"\0" * 200
    (tmp_path / "x.wav").write_bytes(b"RIFF" + struct.pack("<I", len(body) + 4) + b"WAVE" + body)
    assert read_tags(objects.resolve(str(tmp_path / "x.wav"))).title is None


def test_readers_follow_the_catalogue_that_counts(tmp_path: Path) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    assert catalogues.current(workspace) is None
    with pytest.raises(StageMissing, match="gatefold catalogue SOURCE"):
        catalogues.read_tracks(workspace)
    for number in range(3):
        ids = tracks(song_id=[f"{number}-{n}" for n in range(5)])
        catalogues.replace(workspace, Catalogue(f"print{number}", 5, "source"), ids, rows_per_part=2)
        assert catalogues.read_tracks(workspace, ["song_id"]).equals(ids)
    found = [objects.relative(info.uri, workspace.catalogue) for info in objects.list_objects(workspace.catalogue)]
    assert {path.split("/")[0] for path in found} == {"current.json", "print1", "print2"}
