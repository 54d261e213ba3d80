"""Backfill of a made library, with a maker of covers that needs no models, and with every fault it must outlive."""

import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from gatefold.config import Settings
from gatefold.errors import InputError, NotFound, StorageUnavailable
from gatefold.images.pixels import encode_picture
from gatefold.ranged import BytesSource, RangedFile
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.storage.contents.embedded_pictures import tags_of
from gatefold.workspace import Workspace
from pipelines.backfill import isolated
from pipelines.backfill.backfill import backfill, preview, undo
from pipelines.backfill.journal import Journal, Run, runs
from pipelines.backfill.songs import Group
from pipelines.backfill.tag_writing import audio_digest
from pipelines.report import Report
from tests.deadly_tags import make_deadly_writer
from tests.library import PICTURE, library, sound, tag

ALBUM, LOOSE, BESIDE = "album", "loose", "beside"


@dataclass
class Maker:
    """A grey square for each group, as dark as its key says; it refuses albums named in `refuses`."""

    made: list[str] = field(default_factory=list)
    refuses: frozenset[str] = frozenset()
    before: Callable[[], object] = lambda: None

    def __call__(self, group: Group) -> bytes:
        if group.album in self.refuses:
            raise InputError("too like a cover")
        self.made.append(group.key)
        self.before()
        return encode_picture(np.full((3, 8, 8), int(group.key[:2], 16), np.uint8), 64, "jpeg")


@dataclass
class Bench:
    """A library, a workspace, and a run of backfill."""

    songs: Path
    workspace: Workspace
    maker: Maker = field(default_factory=Maker)

    def fill(self, into: Any = "tags") -> Report:
        return backfill(
            Settings(), str(self.songs), self.workspace, into=into, size=64, maker_of=lambda _: self.maker
        )  # fmt: skip

    def files(self) -> dict[str, bytes]:
        found = sorted(path for path in self.songs.rglob("*") if path.is_file())
        return {path.relative_to(self.songs).as_posix(): path.read_bytes() for path in found}

    def run(self) -> Run:
        return runs(self.workspace)[-1]

    def undo(self) -> Report:
        return undo(self.workspace, self.run().run_id)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(releases, "current", lambda _: type("Release", (), {"version": "r1"}))
    return Bench(library(tmp_path / "songs", "mp3", "flac"), Workspace(objects.resolve(str(tmp_path / "workspace"))))


def pictures(data: bytes) -> list[bytes]:
    return tags_of(RangedFile(BytesSource(data), 1 << 26, "x"), "x").pictures


def test_a_dry_run_writes_nothing_and_says_what_would_be_done(bench: Bench, tmp_path: Path) -> None:
    before = bench.files()
    plan = preview(str(bench.songs), bench.workspace, "tags")
    assert (plan.songs, plan.covered, plan.left) == (10, 4, [])
    names = sorted([objects.name(song.uri) for song in group.songs] for group in plan.groups)
    assert names == [["1 ödd #%20.flac"], ["1 ödd #%20.mp3"], ["1.flac", "2.flac"], ["1.mp3", "2.mp3"]]
    assert bench.files() == before
    assert not (tmp_path / "workspace").exists()


def test_every_song_without_a_cover_has_one_in_its_tags_and_a_second_run_does_nothing(bench: Bench) -> None:
    before = bench.files()
    report = bench.fill()
    after = bench.files()
    assert (report.done, report.skipped, report.rejected) == (6, 4, 0)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {name for name in before if ALBUM in name or LOOSE in name}
    assert all(len(pictures(after[name])) == 1 for name in changed)
    assert pictures(after["mp3/album/1.mp3"]) == pictures(after["mp3/album/2.mp3"])
    assert pictures(after["mp3/album/1.mp3"]) != pictures(after["flac/album/1.flac"])
    again = bench.fill()
    assert (again.done, again.details["run"], len(bench.maker.made)) == (0, None, 4)
    assert bench.files() == after


def test_undo_gives_back_every_byte_and_can_be_said_twice(bench: Bench) -> None:
    before = bench.files()
    for into in ("tags", "file"):
        bench.fill(into)
        assert bench.files() != before
        assert bench.undo().rejected == 0
        assert bench.files() == before
        assert bench.run().state == "undone"
        assert bench.undo().rejected == 0
    assert bench.fill().done == 6


def test_a_cover_is_put_beside_an_album(bench: Bench) -> None:
    report = bench.fill("file")
    made = {name for name in bench.files() if name.endswith("cover.jpg")}
    assert made == {f"{kind}/{folder}/cover.jpg" for kind in ("mp3", "flac") for folder in (ALBUM, LOOSE)}
    assert (report.done, report.rejected) == (6, 0)
    assert bench.fill("file").details["run"] is None


def test_songs_of_several_albums_in_one_folder_get_no_file_that_would_belong_to_none(bench: Bench) -> None:
    (bench.songs / "mp3" / ALBUM / "3.mp3").write_bytes(tag(sound("mp3"), "mp3", album="another"))
    report = bench.fill("file")
    assert not (bench.songs / "mp3" / ALBUM / "cover.jpg").exists()
    assert report.rejected == 3
    assert "--into tags" in str(report.details["left_by_reason"])
    assert bench.fill("tags").done == 3


def test_discs_of_an_album_get_the_same_cover(bench: Bench) -> None:
    for disc in ("CD1", "CD2"):
        path = bench.songs / "set" / disc / "1.mp3"
        path.parent.mkdir(parents=True)
        path.write_bytes(tag(sound("mp3"), "mp3", album="Set"))
    bench.fill("file")
    one, two = (bench.songs / "set" / disc / "cover.jpg" for disc in ("CD1", "CD2"))
    assert one.read_bytes() == two.read_bytes()


def test_a_manifest_names_the_new_covers_and_leaves_the_library_alone(bench: Bench) -> None:
    before = bench.files()
    report = bench.fill("manifest")
    rows = pq.read_table(objects.local_path(str(report.details["manifest"]))).to_pylist()
    covers = {row["song_id"]: row["cover_uri"] for row in rows}
    assert len(covers) == 10
    assert all(objects.exists(uri.removesuffix("#picture")) for uri in covers.values())
    assert covers["mp3/album/1.mp3"] == covers["mp3/album/2.mp3"]
    assert bench.files() == before
    assert bench.fill("manifest").details["run"] is None
    assert bench.undo().rejected == 0
    assert bench.fill("manifest").done == 6


def test_a_manifest_as_source_has_its_own_covers_and_albums(bench: Bench) -> None:
    lines = ['{"song_id": "a", "audio_uri": "mp3/album/1.mp3", "cover_uri": "x.jpg"}',
             '{"song_id": "b", "audio_uri": "mp3/album/2.mp3", "album": "Mine"}',
             '{"song_id": "c", "audio_uri": "mp3/beside/1.mp3"}', '{"song_id": "d", "audio_uri": "flac/inside/1.flac"}',
             '{"song_id": "e", "audio_uri": "nowhere.mp3"}']  # fmt: skip
    manifest = bench.songs / "songs.jsonl"
    manifest.write_text("\n".join(lines))
    plan = preview(str(manifest), bench.workspace, "tags")
    assert [[song.song_id for song in group.songs] for group in plan.groups] == [["b"]]
    assert plan.groups[0].album == "Mine"
    assert [left.song_id for left in plan.left] == ["e"]
    bench.songs = manifest
    assert bench.fill().done == 1
    manifest.write_text(lines[0])
    assert preview(str(manifest), bench.workspace, "tags").groups == []


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_a_read_only_file_is_left_and_named(bench: Bench) -> None:
    path = bench.songs / "mp3" / ALBUM / "1.mp3"
    path.chmod(0o444)
    before = path.read_bytes()
    plan = preview(str(bench.songs), bench.workspace, "tags")
    assert [left.reason for left in plan.left] == ["the file is read-only"]
    report = bench.fill()
    assert (report.done, report.rejected) == (5, 1)
    assert path.read_bytes() == before


def test_a_file_keeps_its_mode_and_a_link_stays_a_link(bench: Bench, tmp_path: Path) -> None:
    path, elsewhere = bench.songs / "mp3" / ALBUM / "1.mp3", tmp_path / "elsewhere.mp3"
    path.rename(elsewhere)
    elsewhere.chmod(0o640)
    path.symlink_to(elsewhere)
    bench.fill()
    assert path.is_symlink()
    assert len(pictures(elsewhere.read_bytes())) == 1
    assert elsewhere.stat().st_mode & 0o777 == 0o640
    assert bench.undo().rejected == 0
    assert elsewhere.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("moment", ["while the cover is made", "right before it is written"])
def test_a_file_that_gets_a_cover_or_changes_meanwhile_is_not_touched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = bench.songs / "mp3" / ALBUM / "1.mp3"
    theirs = tag(sound("mp3"), "mp3", "theirs", "A", picture=True)
    if moment == "while the cover is made":
        bench.maker.before = lambda: path.write_bytes(theirs)
    else:
        real = objects.put_if_unchanged

        def put(uri: str, data: bytes, etag: str) -> bool:
            if uri == path.as_uri():
                path.write_bytes(theirs)
            return real(uri, data, etag)

        monkeypatch.setattr(objects, "put_if_unchanged", put)
    report = bench.fill()
    assert path.read_bytes() == theirs
    assert (report.done, report.rejected) == (5, 1)
    monkeypatch.undo()
    assert bench.undo().rejected == 0
    assert path.read_bytes() == theirs


@pytest.mark.parametrize("name", ["cover.jpg", "Folder.PNG", "front.webp"])
@pytest.mark.parametrize("into", ["file", "tags"])
def test_a_cover_that_appears_beside_meanwhile_stays_the_only_one(bench: Bench, name: str, into: str) -> None:
    path = bench.songs / "mp3" / ALBUM / name
    bench.maker.before = lambda: path.write_bytes(PICTURE)
    songs = {name: data for name, data in bench.files().items() if name.startswith("mp3/album/")}
    report = bench.fill(into)
    assert (report.done, report.rejected) == (4, 2)
    assert path.read_bytes() == PICTURE
    left = {name: data for name, data in bench.files().items() if name.startswith("mp3/album/")}
    assert left == {**songs, f"mp3/album/{name}": PICTURE}


def test_what_cannot_be_used_costs_itself_alone(bench: Bench) -> None:
    (bench.songs / "mp3" / "broken.mp3").write_bytes(b"no sound")
    (bench.songs / "mp3" / "empty.flac").write_bytes(b"")
    bench.maker.refuses = frozenset({"A"})
    report = bench.fill()
    assert (report.done, report.rejected) == (2, 6)
    reasons = str(report.details["left_by_reason"])
    assert "no audio file" in reasons
    assert "is empty" in reasons
    assert "too like a cover" in reasons


def test_a_store_that_fails_ends_the_run_and_the_next_one_goes_on_with_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = objects.put_if_unchanged, []

    def put(uri: str, data: bytes, etag: str) -> bool:
        calls.append(uri)
        if len(calls) == 3:
            raise StorageUnavailable("away")
        return real(uri, data, etag)

    with monkeypatch.context() as patched:
        patched.setattr(objects, "put_if_unchanged", put)
        with pytest.raises(StorageUnavailable):
            bench.fill()
    first = bench.run()
    assert first.state == "open"
    made = list(bench.maker.made)
    report = bench.fill()
    assert (report.done, report.details["run"]) == (4, first.run_id)
    assert bench.run().state == "finished"
    assert sorted(bench.maker.made) == sorted(set(bench.maker.made)), "a cover that was made is not made again"
    assert len(made) < len(bench.maker.made)


def test_a_file_that_kills_or_stalls_what_writes_its_tags_costs_itself_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolated, "make_tag_writer", make_deadly_writer)
    for name in ("kills", "stalls"):
        (bench.songs / "mp3" / ALBUM / "1.mp3").rename(bench.songs / "mp3" / ALBUM / f"1 {name}.mp3")
        isolated._tag_writer.cache_clear()  # the next one is made anew
        settings = Settings.model_validate({"batch": {"song_timeout_s": 2.0}})
        source, kept = str(bench.songs), bench.files()[f"mp3/{ALBUM}/1 {name}.mp3"]
        report = backfill(settings, source, bench.workspace, into="tags", size=64, maker_of=lambda _: bench.maker)
        assert (report.done, report.rejected) == (5, 1)
        assert bench.files()[f"mp3/{ALBUM}/1 {name}.mp3"] == kept
        isolated._tag_writer(settings.batch.song_timeout_s).close()
        bench.undo()
        (bench.songs / "mp3" / ALBUM / f"1 {name}.mp3").rename(bench.songs / "mp3" / ALBUM / "1.mp3")
    isolated._tag_writer.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_three_hundred_files_of_all_kinds_are_filled_and_given_back(bench: Bench, tmp_path: Path) -> None:
    bench.songs = tmp_path / "many"
    for number in range(8):
        library(bench.songs / f"{number}")
    before = bench.files()
    sounds = {name: audio_digest(data) for name, data in before.items() if not name.endswith("JPG")}
    report = bench.fill()
    after = bench.files()
    assert (len(sounds), report.done, report.skipped, report.rejected) == (320, 192, 128, 0)
    assert {name: audio_digest(after[name]) for name in sounds} == sounds
    assert all(pictures(after[name]) for name in sounds if BESIDE not in name)
    assert bench.fill().details["run"] is None
    assert bench.files() == after
    assert bench.undo().rejected == 0
    assert bench.files() == before


_KILLED = """
import os, signal, sys
from tests.unit.pipelines.backfill.killed import run
run(*sys.argv[1:])
"""


@pytest.mark.parametrize("into", ["tags", "file"])
@pytest.mark.parametrize("moment", ["before the row", "before the write", "after the write", "after the row"])
def test_after_a_kill_the_next_run_does_the_rest_nothing_twice_and_all_can_be_undone(
    bench: Bench, moment: str, into: str
) -> None:
    before = bench.files()
    arguments = [str(bench.songs), bench.workspace.uri, into, moment]
    root = Path(__file__).parents[4]
    killed = subprocess.run([sys.executable, "-c", _KILLED, *arguments], cwd=root, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    halfway = bench.files()
    report = bench.fill(into)
    assert len(runs(bench.workspace)) == 1
    after = bench.files()
    assert all(after[name] == halfway[name] for name in halfway if halfway[name] != before.get(name))
    songs = [data for name, data in after.items() if ALBUM in name or LOOSE in name]
    if into == "tags":
        assert [len(pictures(data)) for data in songs] == [1] * 6
    else:
        assert len([name for name in after if name.endswith("cover.jpg")]) == 4
    assert report.rejected == 0
    rows = list(Journal(bench.workspace, bench.run().run_id).rows())
    assert {row.state for row in rows} == {"done"}
    assert len(rows) == (6 if into == "tags" else 4)
    assert bench.undo().rejected == 0
    assert bench.files() == before


def test_what_was_changed_since_is_left_by_undo_and_named(bench: Bench) -> None:
    bench.fill()
    changed, gone = bench.songs / "mp3" / ALBUM / "1.mp3", bench.songs / "mp3" / ALBUM / "2.mp3"
    changed.write_bytes(b"theirs")
    gone.unlink()
    report = bench.undo()
    left: Any = report.details["left"]
    assert sorted(one["reason"] for one in left) == ["the file is gone", "the file was changed since"]
    assert changed.read_bytes() == b"theirs"
    assert (report.done, bench.run().state) == (4, "finished")


def test_undo_that_was_ended_is_continued(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bench.files()
    bench.fill()
    real, calls = objects.put_if_unchanged, []

    def put(uri: str, data: bytes, etag: str) -> bool:
        calls.append(uri)
        written = real(uri, data, etag)
        if len(calls) == 3:
            raise StorageUnavailable("away, after the write")
        return written

    with monkeypatch.context() as patched:
        patched.setattr(objects, "put_if_unchanged", put)
        with pytest.raises(StorageUnavailable):
            bench.undo()
    assert bench.undo().rejected == 0
    assert bench.files() == before


def test_a_run_that_there_is_not_is_named_with_those_there_are(bench: Bench) -> None:
    bench.fill()
    with pytest.raises(NotFound, match=f"run 'nope' is not in .*; runs there: {bench.run().run_id}"):
        undo(bench.workspace, "nope")


def test_originals_take_little_room(bench: Bench) -> None:
    bench.fill()
    folder = objects.local_path(objects.join(bench.workspace.backfill, bench.run().run_id, "originals"))
    assert folder is not None
    kept = sum(path.stat().st_size for path in folder.iterdir())
    assert kept < sum(len(data) for data in bench.files().values()) / 2
    assert len(list(folder.iterdir())) == 6
