"""`gatefold backfill` from the outside: what it prints, what goes to JSON, which exit codes come back."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from gatefold.cli import session
from gatefold.cli.main import app
from gatefold.images.pixels import encode_picture
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from pipelines.backfill import backfill as module
from pipelines.backfill.journal import runs
from pipelines.backfill.songs import Group
from tests.library import library


def make_cover(_: Group) -> bytes:
    return encode_picture(np.zeros((3, 8, 8), np.uint8), 64, "jpeg")


@pytest.fixture
def songs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library; neither Ray nor models are needed for it."""
    monkeypatch.setattr(session.Session, "connect", lambda _: None)
    monkeypatch.setattr(releases, "current", lambda _: type("Release", (), {"version": "r1"}))
    monkeypatch.setattr(module, "_release_covers", lambda *_: lambda _run: make_cover)
    return library(tmp_path / "songs", "flac")


def call(songs: Path, *arguments: str) -> Result:
    workspace = str(songs.parent / "workspace")
    return CliRunner().invoke(app, ["--workspace", workspace, "backfill", *arguments])


def test_without_write_it_says_what_it_would_do_and_does_nothing(songs: Path) -> None:
    result = call(songs, str(songs))
    assert result.exit_code == 0
    assert "3 of 5 songs would get one of 2 new covers" in result.stdout
    assert "1.flac and 1 more of 'A'" in result.stdout
    assert "nothing was written; --into file --write does it" in result.stdout
    assert not (songs.parent / "workspace").exists()
    listed = json.loads(call(songs, str(songs), "--into", "tags", "--json").stdout)
    assert [len(group["songs"]) for group in listed["groups"]] in ([1, 2], [2, 1])


def test_with_write_it_does_it_and_undo_takes_it_back(songs: Path) -> None:
    before = {path: path.read_bytes() for path in songs.rglob("*") if path.is_file()}
    result = call(songs, str(songs), "--into", "tags", "--write")
    assert result.exit_code == 0, result.output
    (run,) = runs(Workspace(objects.resolve(str(songs.parent / "workspace"))))
    assert f"gatefold backfill --undo {run.run_id} takes it back" in result.stdout
    assert "nothing to do" in call(songs, str(songs), "--into", "tags", "--write").stdout
    undone = call(songs, "--undo", run.run_id)
    assert (undone.exit_code, undone.stdout.strip()) == (0, "restored  3")
    assert {path: path.read_bytes() for path in songs.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "arguments", [[], ["SONGS", "--undo", "x"], ["--undo", "x", "--write"], ["SONGS", "--into", "x"]]
)
def test_what_cannot_be_meant_is_a_misuse(songs: Path, arguments: list[str]) -> None:
    assert call(songs, *(str(songs) if one == "SONGS" else one for one in arguments)).exit_code == 2


def test_an_unknown_run_is_a_failure(songs: Path) -> None:
    result = call(songs, "--undo", "nope")
    assert result.exit_code == 1
    assert "runs there: none" in result.stderr
