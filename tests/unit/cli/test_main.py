"""The command line from the outside: what goes to stdout, which exit codes come back, what stays unimported."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from typer.testing import CliRunner, Result

from gatefold.cli import session
from gatefold.cli.main import app
from gatefold.config import Settings
from gatefold.errors import SilentAudio, StorageUnavailable, TooFewSongs, TooManyRejects, UndecodableAudio
from gatefold.progress import OnProgress
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents import catalogues, optouts, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace
from pipelines import run
from pipelines.evaluation import encoder_comparison, generator_comparison
from pipelines.extraction.rejects import reject_of
from pipelines.report import Report, write_report
from tests.rejects import write_rejects

VERBS = ["run", "catalogue", "spectrograms", "covers", "train-encoder", "embed", "index", "train-generator", "evaluate"]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(objects.resolve(str(tmp_path / "workspace")))


def call(workspace: Workspace, *args: str) -> Result:
    return CliRunner().invoke(app, ["--workspace", workspace.uri, *args])


def report_of(stage: str, **changes: Any) -> Report:
    return Report(stage=stage, done=3, skipped=1, rejected=0, seconds=0.5).model_copy(update=changes)


class Pipelines:
    """Stages that note that they ran and return what the test set, in the place of the real ones and of Ray."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ran: list[tuple[str, Settings]] = []
        self.failures: dict[str, BaseException] = {}
        monkeypatch.setattr(run, "stages", lambda: [(verb, self.stage(verb)) for verb in VERBS[2:]])
        monkeypatch.setattr(session.Session, "connect", lambda _: None)

    def stage(self, verb: str) -> run.StageFunction:
        def work(settings: Settings, workspace: Workspace, on_progress: OnProgress) -> Report:
            self.ran.append((verb, settings))
            on_progress(4, 4)
            write_report(workspace, report_of(verb))
            if verb in self.failures:
                raise self.failures[verb]
            return report_of(verb)

        return work

    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.ran]


@pytest.fixture
def pipelines(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Pipelines:
    rows = [{"song_id": "s1", "audio_uri": "file:///1.wav", "split": "train"}]
    catalogues.replace(workspace, Catalogue("c1", 1, "file:///m.csv"), pa.Table.from_pylist(rows, schema=TRACKS), 100)
    return Pipelines(monkeypatch)


# ---- help and arguments ---------------------------------------------------------------------------------------------


def test_help_shows_the_stages_in_their_order() -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).stdout
    places = [shown.index(f"│ {verb} ") for verb in [*VERBS, "release"]]
    assert places == sorted(places)


def test_help_is_instant_for_it_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom gatefold.cli.main import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'ray', 'torch', 'pyarrow', 'numpy', 'pydantic', 'pipelines', 'serve'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "verb", [*VERBS, "release", "search", "generate", "serve", "demo", "status", "rejects list", "opt-out"]
)
def test_every_verb_teaches_by_an_example(verb: str) -> None:
    shown = CliRunner().invoke(app, [*verb.split(), "--help"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "Example: gatefold" in shown.stdout
    assert "Also --workspace" in shown.stdout


@pytest.mark.parametrize(
    "args",
    [
        ["--json", "--set", "encoder.epochs=2", "embed"],
        ["embed", "--json", "--set", "encoder.epochs=2"],
        ["--set=encoder.epochs=2", "embed", "--json"],
    ],
)
def test_global_options_count_before_and_after_the_verb(
    workspace: Workspace, pipelines: Pipelines, args: list[str]
) -> None:
    result = call(workspace, *args)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["stage"] == "embed"
    assert [settings.encoder.epochs for _, settings in pipelines.ran] == [2]


def test_generators_are_compared_in_tables_with_what_they_are_of(
    workspace: Workspace, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(_: Settings, __: Workspace, on_progress: OnProgress) -> Report:
        on_progress(2, 2)
        row = {"measure": "KID, covers alone", "value": 0.5, "low": 0.4, "high": 0.6, "baseline_values": {}}
        candidates = [{"name": name, "size": 64, "table": [row]} for name in ("real covers", "transformer")]
        distances = {"real covers": {"": 12.5}, "transformer": {"": 30.0}}
        genres = [{"genre": "jazz", "pictures": 20, "nearest": distances, "held_out": distances}]
        counts = {"asked": 20, "reference": 30, "artists": 5, "catalogue": 1200}
        return report_of("compare-generators", details={**counts, "candidates": candidates, "genres": genres})

    monkeypatch.setattr(generator_comparison, "compare_generators", compare)
    shown = call(workspace, "evaluate", "--generators")
    assert shown.exit_code == 0
    text = " ".join(shown.stdout.split())
    assert "Covers for 20 held-out songs" in text
    assert "0.500 ± 0.100" in text
    assert "jazz" in text
    assert "20.89" in text
    found = json.loads(call(workspace, "evaluate", "--generators", "--json").stdout)
    assert [one["name"] for one in found["details"]["candidates"]] == ["real covers", "transformer"]
    assert pipelines.verbs() == []


def test_encoders_that_are_compared_stand_side_by_side_in_the_order_asked_for(
    workspace: Workspace, pipelines: Pipelines, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(_: Settings, __: Workspace, versions: list[str], on_progress: OnProgress) -> Report:
        on_progress(2, 2)
        row = {"measure": "recall@10", "value": 0.5, "low": 0.4, "high": 0.6, "baseline_values": {"chance": 0.1}}
        encoders = [{"version": version, "loss": f"loss of {version}", "table": [row]} for version in versions]
        return report_of("compare", details={"held_out": 20, "artists": 5, "encoders": encoders})

    monkeypatch.setattr(encoder_comparison, "compare_encoders", compare)
    shown = call(workspace, "evaluate", "--compare", "second", "--compare", "first")
    assert shown.exit_code == 0
    assert shown.stdout.index("loss of second") < shown.stdout.index("loss of first")
    assert "0.500 ± 0.100" in shown.stdout
    assert "20 held-out songs by 5 artists" in shown.stdout
    found = json.loads(call(workspace, "evaluate", "--compare", "first", "--json").stdout)
    assert [encoder["version"] for encoder in found["details"]["encoders"]] == ["first"]
    assert pipelines.verbs() == []


@pytest.mark.parametrize(
    "args",
    [
        ["serch"],
        ["catalogue"],
        ["search", "a.mp3", "-k", "0"],
        ["generate", "a.mp3"],
        ["generate", "-o", "out"],
        ["generate", "a.mp3", "--batch", "b.jsonl", "-o", "out"],
        ["generate", "--batch", "b.jsonl", "-n", "2", "-o", "out"],
        ["status", "--set", "audio.n_mels=3"],
        ["status", "--set", "no_such_section.x=3"],
        ["serve", "--port", "99999"],
        ["demo", "--port", "0"],
        ["demo", "--songs", "5"],
        ["status", "--config", "no-such-file.yaml"],
        ["status", "--workspace", "ftp://somewhere"],
    ],
)
def test_misuse_exits_with_2(workspace: Workspace, args: list[str]) -> None:
    result = call(workspace, *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_config_file_is_read_and_a_set_option_overrules_it(
    workspace: Workspace, pipelines: Pipelines, tmp_path: Path
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text("encoder: {epochs: 5, batch_size: 8}\nendpoint_url: null\n")
    assert call(workspace, "embed", "--config", str(config), "--set", "encoder.epochs=7").exit_code == 0
    settings = pipelines.ran[0][1]
    assert (settings.encoder.epochs, settings.encoder.batch_size) == (7, 8)


def test_the_endpoint_of_the_store_is_known_before_anything_touches_storage(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://of-the-environment")
    call(workspace, "status")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://of-the-environment"
    call(workspace, "status", "--set", "endpoint_url=http://of-the-settings")
    assert os.environ["AWS_ENDPOINT_URL"] == "http://of-the-settings"


# ---- stages ---------------------------------------------------------------------------------------------------------


def test_run_does_all_stages_in_their_order_and_prints_one_object(workspace: Workspace, pipelines: Pipelines) -> None:
    result = call(workspace, "run", "--json")
    assert result.exit_code == 0
    assert [stage["stage"] for stage in json.loads(result.stdout)["stages"]] == pipelines.verbs() == VERBS[2:]
    assert "✓ embed" in result.stderr


def test_a_verb_prints_nothing_on_stdout_that_is_no_result(workspace: Workspace, pipelines: Pipelines) -> None:
    result = call(workspace, "embed")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "✓ embed            3 done, 1 before" in result.stderr
    assert pipelines.verbs() == ["embed"]


def test_too_many_rejects_stop_the_run_with_3_and_the_report_is_printed(
    workspace: Workspace, pipelines: Pipelines
) -> None:
    pipelines.failures["covers"] = TooManyRejects("covers: 3 of 4 inputs were rejected")
    result = call(workspace, "run", "--json")
    assert result.exit_code == 3
    printed = json.loads(result.stdout)
    assert [stage["stage"] for stage in printed["stages"]] == ["spectrograms", "covers"]
    assert printed["error"] == {"code": "too_many_rejects", "message": "covers: 3 of 4 inputs were rejected"}
    assert "covers: 3 of 4" in result.stderr


def test_a_catalogue_too_small_to_be_measured_is_released_all_the_same(
    workspace: Workspace, pipelines: Pipelines
) -> None:
    pipelines.failures["evaluate"] = TooFewSongs("2 test songs have both sides; add artists")
    result = call(workspace, "run", "--json")
    assert result.exit_code == 0
    assert pipelines.verbs() == VERBS[2:]
    assert "not measured: 2 test songs have both sides; add artists" in result.stderr
    alone = call(workspace, "evaluate")
    assert alone.exit_code == 1
    assert "✗ 2 test songs have both sides; add artists" in alone.stderr


def test_a_failure_exits_with_1_and_says_why_on_stderr(workspace: Workspace, pipelines: Pipelines) -> None:
    pipelines.failures["index"] = StorageUnavailable("'s3://b/k': no answer; try again")
    result = call(workspace, "index")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("✗ 's3://b/k': no answer; try again\n")


class RayTaskError(Exception):
    """What Ray makes of an error in a task: ours is its cause."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("a remote traceback, many lines long")
        self.cause = cause


class WorkerGroupError(Exception):
    """What Ray Train makes of it."""

    def __init__(self, *failures: BaseException) -> None:
        super().__init__("training failed")
        self.worker_failures = dict(enumerate(failures))


@pytest.mark.parametrize("wrap", [RayTaskError, WorkerGroupError, lambda own: WorkerGroupError(RayTaskError(own))])
def test_an_error_of_ours_is_reported_without_what_ray_wrapped_around_it(
    workspace: Workspace, pipelines: Pipelines, wrap: Any
) -> None:
    pipelines.failures["embed"] = wrap(StorageUnavailable("the disk is full; make room"))
    result = call(workspace, "embed")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "✗ the disk is full; make room"


def test_an_error_that_is_not_ours_keeps_its_traceback(workspace: Workspace, pipelines: Pipelines) -> None:
    pipelines.failures["embed"] = ZeroDivisionError("a bug")
    assert isinstance(call(workspace, "embed").exception, ZeroDivisionError)


def test_an_interrupt_says_how_to_go_on(workspace: Workspace, pipelines: Pipelines) -> None:
    pipelines.failures["embed"] = KeyboardInterrupt()
    result = call(workspace, "embed")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == "stopped; the same command continues where it stopped"


# ---- the workspace's commands ----------------------------------------------------------------------------------------


def test_the_status_of_an_empty_workspace_is_that_nothing_was_made(workspace: Workspace) -> None:
    result = call(workspace, "status", "--json")
    assert result.exit_code == 0
    status = json.loads(result.stdout)
    assert (status["workspace"], status["release"]) == (workspace.uri, None)
    assert [(stage["stage"], stage["state"]) for stage in status["stages"]] == [("catalogue", "missing")]


def publish(workspace: Workspace, versions: Sequence[str]) -> None:
    for number, version in enumerate(versions):
        part = ReleasePart(uri=f"encoders/{version}", version=version, fingerprint=version)
        made = f"2024-01-0{number + 1}T00:00:00+00:00"
        release = Release(version=version, created_at=made, encoder=part, index=part, generator=part)
        releases.publish(workspace, release)
        releases.activate(workspace, version)


def test_releases_are_listed_activated_and_rolled_back(workspace: Workspace) -> None:
    publish(workspace, ["r1", "r2"])
    listed = json.loads(call(workspace, "release", "list", "--json").stdout)
    assert (listed["current"], [one["version"] for one in listed["releases"]]) == ("r2", ["r1", "r2"])
    assert call(workspace, "release", "rollback").stdout.startswith("release r1 serves now")
    assert json.loads(call(workspace, "--json", "release", "activate", "r2").stdout)["version"] == "r2"
    assert releases.current(workspace).version == "r2"


def test_a_release_that_is_not_there_fails_with_1(workspace: Workspace) -> None:
    result = call(workspace, "release", "activate", "r9")
    assert result.exit_code == 1
    assert "there is no release 'r9'" in result.stderr


def reject(workspace: Workspace) -> None:
    """Two songs that are silent and one that is no music, and one cover."""
    silent = [reject_of(SilentAudio(f"song '{name}': silent"), name, None, "spectrograms") for name in "ab"]
    words = reject_of(UndecodableAudio("song 'c': words"), "c", None, "spectrograms")
    write_rejects(workspace, "spectrograms", "p1", [*silent, words])
    write_rejects(workspace, "covers", "p1", [reject_of(UndecodableAudio("cover: damaged"), "a", None, "covers")])


def test_rejects_are_counted_by_stage_and_code_with_an_example(workspace: Workspace) -> None:
    reject(workspace)
    groups = json.loads(call(workspace, "rejects", "list", "--json").stdout)["rejects"]
    assert groups[0] == {"stage": "spectrograms", "code": "silent_audio", "count": 2, "example": "song 'b': silent"}
    assert len(groups) == 3
    shown = call(workspace, "rejects", "list", "--stage", "covers").stdout
    assert "cover: damaged" in shown
    assert "silent" not in shown


def test_a_retry_forgets_the_rejects_and_runs_their_stages(workspace: Workspace, pipelines: Pipelines) -> None:
    reject(workspace)
    result = call(workspace, "rejects", "retry", "--code", "silent_audio", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["retried"] == {"spectrograms": 2}
    assert pipelines.verbs() == ["spectrograms"]
    left = json.loads(call(workspace, "rejects", "list", "--json").stdout)["rejects"]
    assert sorted((one["stage"], one["count"]) for one in left) == [("covers", 1), ("spectrograms", 1)]


def test_a_retry_of_nothing_runs_nothing(workspace: Workspace, pipelines: Pipelines) -> None:
    result = call(workspace, "rejects", "retry")
    assert (result.exit_code, result.stdout) == (0, "no such rejects; `gatefold rejects list` shows those there are\n")
    assert pipelines.verbs() == []


def test_songs_are_withdrawn_and_listed(workspace: Workspace) -> None:
    folder = objects.local_path(workspace.uri)
    assert folder is not None
    folder.mkdir()
    assert call(workspace, "opt-out").stdout == "no opt-outs\n"
    made = call(workspace, "opt-out", "s1", "s2", "--json")
    assert (made.exit_code, json.loads(made.stdout)["not_in_catalogue"]) == (0, ["s1", "s2"])
    assert "'s1' is withdrawn, but not in the catalogue" in made.stderr
    assert optouts.song_ids(workspace) == {"s1", "s2"}
    listed = json.loads(call(workspace, "opt-out", "--json").stdout)["optouts"]
    assert sorted(one["song_id"] for one in listed) == ["s1", "s2"]
    assert "s1" in call(workspace, "opt-out").stdout


# ---- search and generate --------------------------------------------------------------------------------------------


def test_a_search_without_a_release_says_what_to_run(workspace: Workspace) -> None:
    result = call(workspace, "search", "song.mp3", "--json")
    assert result.exit_code == 1
    assert "`gatefold run SOURCE` makes one" in json.loads(result.stdout)["error"]["message"]
