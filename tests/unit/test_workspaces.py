"""One default workspace for all verbs, the demo among them, and errors that name the workspaces near by."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from gatefold.cli.main import app
from gatefold.cli.session import Session
from gatefold.errors import Unavailable
from gatefold.records import TRACKS
from gatefold.storage.contents import catalogues, releases
from gatefold.storage.contents.nearby_workspaces import is_workspace, workspaces_near
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workspaces of verbs that came as far as Ray, where they stop."""
    uris: list[str] = []

    def connect(session: Session) -> None:
        uris.append(session.workspace.uri)
        raise Unavailable("no Ray here")

    monkeypatch.setattr(Session, "connect", connect)
    return uris


def call(*args: str) -> Result:
    return CliRunner().invoke(app, args)


def make_catalogue(folder: Path, source: str) -> Workspace:
    workspace = Workspace(folder.as_uri())
    row = dict.fromkeys(TRACKS.names) | {"song_id": "a", "audio_uri": "file:///a.wav", "split": "train"}
    catalogues.replace(workspace, catalogues.Catalogue("f1", 1, source), pa.Table.from_pylist([row], TRACKS), 10)
    return workspace


def make_release(folder: Path) -> Workspace:
    workspace = Workspace(folder.as_uri())
    part = ReleasePart(uri="encoders/e", version="e", fingerprint="e")
    release = Release(version="r", created_at="2026-01-01T00:00:00Z", encoder=part, index=part, generator=part)
    releases.publish(workspace, release)
    releases.activate(workspace, "r")
    return workspace


def test_the_demo_works_in_the_workspace_that_every_other_verb_has_by_default(here: Path, opened: list[str]) -> None:
    for verb in ("demo", "embed", "serve"):
        assert call(verb).exit_code == 1
    assert set(opened) == {(here / "workspace").as_uri()}


def test_the_demo_goes_on_in_its_own_workspace(here: Path, opened: list[str]) -> None:
    workspace = make_catalogue(here / "workspace", (here / "workspace" / "songs" / "manifest.parquet").as_uri())
    make_release(here / "workspace")
    call("demo")
    assert opened == [workspace.uri]


def test_the_demo_refuses_a_workspace_with_songs_of_ones_own_and_says_what_to_do(here: Path, opened: list[str]) -> None:
    make_catalogue(here / "workspace", "file:///home/ada/Music")
    result = call("demo")
    assert (result.exit_code, opened) == (2, [])
    assert f"'{here / 'workspace'}' holds the catalogue of '/home/ada/Music'" in result.stderr
    assert "gatefold --workspace workspace-demo demo" in result.stderr


def test_the_demo_refuses_a_workspace_with_a_release_alone(here: Path, opened: list[str]) -> None:
    make_release(here / "workspace")
    result = call("demo")
    assert (result.exit_code, opened) == (2, [])
    assert "holds a release without a catalogue" in result.stderr


@pytest.mark.parametrize("args", [["search", "song.mp3"], ["generate", "song.mp3", "-o", "out"], ["release"]])
def test_an_error_about_a_missing_workspace_names_those_near_by(here: Path, args: list[str]) -> None:
    make_release(here / "workspace" / "demo")
    make_catalogue(here / "jazz", "file:///jazz")
    result = call(*args, "--json")
    assert result.exit_code == 1
    message = json.loads(result.stdout)["error"]["message"]
    assert message.endswith("; workspaces near by: 'jazz', 'workspace/demo' (name one with --workspace)")


def test_status_of_nothing_names_the_workspaces_near_by(here: Path) -> None:
    make_release(here / "other")
    assert "nothing is in this workspace; workspaces near by: 'other'" in call("status").stderr


def test_an_error_in_a_workspace_names_no_other(here: Path) -> None:
    make_release(here / "other")
    make_catalogue(here / "workspace", "file:///jazz")
    assert "near by" not in call("search", "song.mp3").stderr


def test_a_folder_is_a_workspace_by_its_marker_files_alone(here: Path) -> None:
    (here / "music" / "releases").mkdir(parents=True)
    (here / "music" / "catalogue").mkdir()
    assert not is_workspace((here / "music").as_uri())
    assert is_workspace(make_release(here / "one").uri)
    assert is_workspace(make_catalogue(here / "two", "file:///jazz").uri)


def test_the_working_folder_itself_is_found_and_hidden_and_deep_ones_are_not(here: Path) -> None:
    make_release(here)
    for name in (".trash", "a/b/c", "a/b"):
        make_release(here / name)
    assert workspaces_near((here / "workspace").as_uri()) == [".", "a/b"]


def test_workspaces_beside_one_that_is_elsewhere_are_given_as_whole_paths(here: Path, tmp_path: Path) -> None:
    make_release(tmp_path / "far" / "demo")
    assert workspaces_near((tmp_path / "far" / "workspace").as_uri()) == [str(tmp_path / "far" / "demo")]
    assert workspaces_near("s3://bucket/workspace") == []
    assert here.is_dir()
