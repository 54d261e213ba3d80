"""The verbs that look ahead, from the outside: what they print, what goes to JSON, which exit codes come back."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatefold.cli import doctor
from gatefold.cli.doctor import Finding
from gatefold.cli.main import app
from gatefold.cli.planning_commands import _digits, _sized, _span
from gatefold.config import AudioSettings, Settings
from gatefold.workspace import Workspace
from pipelines.planning import plan
from pipelines.planning.estimate import Range
from pipelines.planning.sampling import SongCost, draw_sample, measure
from pipelines.report import Report, write_report
from tests.sounds import MUSIC


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace((tmp_path / "workspace").as_uri())


def call(workspace: Workspace, *args: str) -> Result:
    return CliRunner().invoke(app, ["--workspace", workspace.uri, *args])


@pytest.fixture(scope="module")
def costs() -> list[SongCost]:
    """Of four clips, measured once, because that takes a process of its own."""
    return measure(draw_sample(str(MUSIC), 4), Settings())


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch, costs: list[SongCost]) -> None:
    """For plans on four clips."""
    monkeypatch.setattr(plan, "measure", lambda *_: costs)


@pytest.mark.parametrize("verb", ["plan", "doctor"])
def test_both_teach_by_an_example(verb: str) -> None:
    assert "Example: gatefold" in CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).stdout


# ---- plan -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("remembered")
def test_a_plan_is_printed_and_kept_and_later_held_against_the_run(workspace: Workspace) -> None:
    made = call(workspace, "plan", str(MUSIC), "--songs", "10000000", "--sample", "4")
    assert made.exit_code == 0
    assert "10,000,000 songs, if all are like 4 of the 17 in" in made.stdout
    for said in ("vCPU-hours", "audio (spot)", "32 c7i.4xlarge", "this machine", "pipelines/prices.yaml", "Assumed:"):
        assert said in made.stdout
    kept = json.loads((Path(workspace.uri.removeprefix("file://")) / "reports" / "plan.json").read_text())
    assert kept["estimate"]["songs"] == 10_000_000

    early = call(workspace, "plan")
    assert early.exit_code == 1
    assert "no songs were extracted since the plan" in early.stderr

    per_song = kept["estimate"]["per_song"]
    details: dict[str, Any] = {
        "target": workspace.spectrograms(AudioSettings()),
        "work_s": 200 * per_song["core_s"]["mean"],
        "bytes_read": 90 * per_song["read_bytes"]["mean"],
    }
    write_report(
        workspace, Report(stage="spectrograms", done=100, skipped=0, rejected=0, seconds=9.0, details=details)
    )
    judged = call(workspace, "plan")
    assert judged.exit_code == 0
    assert "+100%" in judged.stdout
    assert "-10%" in judged.stdout
    assert "! wall time of the run: the report of the run has no workers" in judged.stdout
    assert json.loads(call(workspace, "plan", "--json").stdout)["songs"] == 100


@pytest.mark.usefixtures("remembered")
def test_a_plan_as_json_is_what_is_kept(workspace: Workspace) -> None:
    made = call(workspace, "plan", str(MUSIC), "--sample", "4", "--json")
    printed = json.loads(made.stdout)
    assert printed == json.loads((Path(workspace.uri.removeprefix("file://")) / "reports" / "plan.json").read_text())
    assert printed["estimate"]["songs"] == 17
    assert {"vcpu_hours", "wall_hours", "total_usd"} <= set(printed["estimate"]["workers"][0])


def test_a_source_that_is_no_manifest_is_misuse(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "songs.csv").write_text("title\nx\n")
    assert call(workspace, "plan", str(tmp_path / "songs.csv")).exit_code == 2


def test_numbers_have_three_digits_and_the_unit_that_suits_them() -> None:
    assert [_digits(value) for value in (0.0, 0.00351, 0.123, 9.994, 9.996, 12.34, 99.96, 1_234.5)] == [
        "0", "0.0035", "0.12", "9.99", "10.0", "12.3", "100", "1,234",
    ]  # fmt: skip
    scale = ((3600.0, "h"), (60.0, "min"), (1.0, "s"))
    assert [_sized(value, scale) for value in (0.5, 90.0, 7_200.0)] == ["0.50 s", "1.50 min", "2.00 h"]
    assert _span(Range(mean=90, low=54, high=126), scale) == "1.50 min (0.90–2.10)"
    assert _span(Range(mean=90, low=90, high=90), scale) == "1.50 min"


# ---- doctor ---------------------------------------------------------------------------------------------------------


def test_a_healthy_machine_exits_with_0(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "GATEFOLD_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    result = call(workspace, "doctor", "--json")
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["healthy"] is True
    assert "codecs" in [one["name"] for one in answer["findings"]]


def test_a_fault_exits_with_1_and_shows_its_remedy(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [
        Finding("store", "fault", "cannot list: AccessDenied", "allow s3:ListBucket [there]"),
        Finding("disk", "warning", "2 GiB free", "make room"),
        Finding("gpu", "ok", "no GPU: the CPU is used"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda *_: findings)
    result = call(workspace, "doctor")
    assert result.exit_code == 1
    assert [line.strip() for line in result.stdout.splitlines()] == [
        "✗ store  cannot list: AccessDenied",
        "→ allow s3:ListBucket [there]",
        "! disk   2 GiB free",
        "→ make room",
        "✓ gpu    no GPU: the CPU is used",
    ]
    answer = json.loads(call(workspace, "doctor", "--json").stdout)
    assert (answer["healthy"], len(answer["findings"])) == (False, 3)


def test_a_warning_alone_is_no_failure(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: [Finding("disk", "warning", "2 GiB free", "make room")])
    assert call(workspace, "doctor").exit_code == 0
