"""What a verb says before its work begins, and of a stage when it is done."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gatefold.cli import session
from gatefold.cli.main import app
from gatefold.cli.session import report_lines
from gatefold.config import Settings
from pipelines.report import Report


def test_what_a_scan_passed_over_is_said_by_reason_and_suffix() -> None:
    details = {"passed_over": {"hidden": {"": 1, ".mp3": 1_200}}, "tags_unreadable": 3}
    report = Report(stage="catalogue", done=1, skipped=0, rejected=0, seconds=1.0, details=details)
    assert report_lines(report) == [
        "  passed over, hidden: 1 without a suffix, 1,200 .mp3",
        "  tags that could not be read: those of 3 songs, which stay in the catalogue",
    ]
    assert report_lines(report.model_copy(update={"details": {}})) == []


def test_songs_without_a_cover_are_counted() -> None:
    counts = {"songs": 1_200, "covers": 3}
    report = Report(stage="catalogue", done=1, skipped=0, rejected=0, seconds=1.0, details=counts)
    assert report_lines(report) == ["  without a cover: 1,197 of 1,200 songs; only those with one are learned from"]
    assert report_lines(report.model_copy(update={"details": {"songs": 3, "covers": 3}})) == []


def test_the_size_of_the_demo_is_the_one_that_its_help_names() -> None:
    shown = CliRunner().invoke(app, ["demo", "--help"], env={"COLUMNS": "200"}).stdout
    assert f"[default: ({Settings().synthesis.songs:,})]" in shown


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["run"], "has no catalogue"),
        (["embed"], "has no catalogue"),
        (["evaluate"], "has no catalogue"),
        (["run", "/no/such/folder"], "'/no/such/folder' is not there"),
        (["catalogue", "songs.csv"], "songs.csv' is not there"),
        (["backfill", "/no/such/folder"], "'/no/such/folder' is not there"),
        (["serve"], "no active release"),
        (["adapt", "song.mp3"], "no active release"),
        (["backfill", ".", "--write"], "no active release"),
    ],
)
def test_what_is_missing_is_said_before_ray_starts(
    tmp_path: Path, args: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(_: session.Session) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr(session.Session, "connect", connect)
    result = CliRunner().invoke(app, ["--workspace", str(tmp_path), *args])
    assert result.exit_code == 1
    assert said in result.stderr


def test_what_follows_two_dashes_is_never_an_option() -> None:
    assert session._globals_first(["search", "--", "--json"]) == ["search", "--", "--json"]
    assert session._globals_first(["search", "a.mp3", "--json"]) == ["--json", "search", "a.mp3"]
    assert session._globals_first(["status", "--set"]) == ["--set", "status"]


def test_the_workspace_option_overrules_the_settings(tmp_path: Path) -> None:
    workspace, other = (tmp_path / "workspace").as_uri(), f"workspace={tmp_path / 'other'}"
    workspaces = [
        json.loads(CliRunner().invoke(app, [*args, "status", "--json"]).stdout)["workspace"]
        for args in (
            ["--set", other],
            ["--set", other, "--workspace", workspace],
        )
    ]
    assert workspaces == [(tmp_path / "other").as_uri(), workspace]
