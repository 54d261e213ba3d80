"""What is refused before anything is written, loaded or looked for."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gatefold.cli.main import app


def refusal(workspace: Path, *args: str) -> tuple[int, str]:
    """Exit code and message."""
    result = CliRunner().invoke(app, ["--workspace", str(workspace), "--json", *args])
    return result.exit_code, json.loads(result.stdout)["error"]["message"]


@pytest.mark.parametrize("args", [("opt-out", "s1"), ("rejects", "list")])
def test_a_workspace_that_is_not_there_is_not_made_by_a_slip(args: tuple[str, ...], tmp_path: Path) -> None:
    code, message = refusal(tmp_path / "slip", *args)
    assert (code, "there is no workspace at" in message) == (1, True)
    assert not (tmp_path / "slip").exists()


def test_pictures_go_into_a_folder_and_not_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "cover.jpg").touch()
    code, message = refusal(tmp_path, "generate", "song.mp3", "-o", str(tmp_path / "cover.jpg"))
    assert code == 2
    assert "cover.jpg' is a file; name a folder" in message


@pytest.mark.parametrize("verb", ["list", "retry"])
def test_a_stage_that_there_is_not_is_no_stage_without_rejects(verb: str, tmp_path: Path) -> None:
    code, message = refusal(tmp_path, "rejects", verb, "--stage", "foo")
    assert (code, message) == (2, "--stage 'foo': allowed: catalogue, spectrograms, covers, embed")
