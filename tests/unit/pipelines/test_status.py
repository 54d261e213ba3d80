"""The status of a workspace at every point of its life, read from what the stages leave behind."""

import json
import time
from pathlib import Path

import pyarrow as pa
import pytest

from gatefold.config import EncoderSettings, Settings
from gatefold.errors import SilentAudio
from gatefold.records import TRACKS
from gatefold.storage import bundles, leases, objects, tables
from gatefold.storage.contents import catalogues, releases
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace
from pipelines.extraction.rejects import reject_of
from pipelines.extraction.stages import StageOutcome, spectrogram_stage
from pipelines.report import Report, write_report
from pipelines.status import StageStatus, status_of
from pipelines.versions import evaluation_of, versions_of
from tests.rejects import write_rejects

SETTINGS = Settings()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With a catalogue of four songs, three of which have covers."""
    made = Workspace(objects.resolve(str(tmp_path)))
    rows = [
        {
            "song_id": f"s{n}",
            "audio_uri": f"file:///{n}.wav",
            "cover_uri": f"file:///{n}.png" if n else None,
            "split": "train",
        }
        for n in range(4)
    ]
    catalogues.replace(made, Catalogue("c1", 4, "file:///m.csv"), pa.Table.from_pylist(rows, schema=TRACKS), 100)
    return made


def stage(workspace: Workspace, name: str, settings: Settings = SETTINGS) -> StageStatus:
    return next(one for one in status_of(settings, workspace).stages if one.stage == name)


def write_ids(folder: str, *song_ids: str) -> None:
    tables.write_part(folder, "-".join(song_ids), pa.table({"song_id": list(song_ids), "etag": [""] * len(song_ids)}))


def test_after_the_catalogue_everything_else_is_missing(workspace: Workspace) -> None:
    status = status_of(SETTINGS, workspace)
    assert (status.source, status.release) == ("file:///m.csv", None)
    states = {one.stage: one.state for one in status.stages}
    assert states.pop("catalogue") == "fresh"
    assert set(states.values()) == {"missing"}
    assert stage(workspace, "covers").total == 3


def test_a_stage_is_fresh_when_every_song_has_a_row_or_a_reject(workspace: Workspace) -> None:
    folder = workspace.spectrograms(SETTINGS.audio)
    write_ids(folder, "s0", "s1", "s1", "s-of-an-older-catalogue")
    assert (stage(workspace, "spectrograms").state, stage(workspace, "spectrograms").done) == ("partly", 2)
    write_ids(folder, "s2")
    write_rejects(workspace, "spectrograms", "p", [reject_of(SilentAudio("silent"), "s3", None, "spectrograms")])
    found = stage(workspace, "spectrograms")
    assert (found.state, found.done, found.total, found.rejected) == ("fresh", 3, 4, 1)


def test_a_song_whose_file_has_changed_is_not_done(workspace: Workspace) -> None:
    write_ids(workspace.spectrograms(SETTINGS.audio), "s0", "s1", "s2", "s3")
    assert stage(workspace, "spectrograms").state == "fresh"
    tracks = catalogues.read_tracks(workspace)
    etags = pa.array([None, "changed", None, None], pa.string())
    tracks = tracks.set_column(tracks.column_names.index("audio_etag"), "audio_etag", etags)
    catalogues.replace(workspace, Catalogue("c2", 4, "file:///m.csv"), tracks, 100)
    assert (stage(workspace, "spectrograms").state, stage(workspace, "spectrograms").done) == ("partly", 3)


def test_a_stage_that_ended_well_is_believed_without_a_look_at_its_parts(workspace: Workspace) -> None:
    ended = spectrogram_stage(SETTINGS, workspace)
    ended.finish(ended.begin(), StageOutcome(4, {"silent_audio": 1}), {})
    found = stage(workspace, "spectrograms")
    assert (found.state, found.done, found.total, found.rejected) == ("fresh", 3, 4, 1)


def test_a_stage_of_other_settings_is_stale(workspace: Workspace) -> None:
    write_ids(workspace.covers(SETTINGS.stored_cover), "s1", "s2", "s3")
    write_report(workspace, Report(stage="covers", done=3, skipped=0, rejected=0, seconds=1.0))
    other = Settings.model_validate({"generator": {"size": 128}})
    assert stage(workspace, "covers").state == "fresh"
    assert stage(workspace, "covers", other).state == "stale"


def test_a_model_shows_how_its_loss_fell_and_is_stale_once_its_settings_change(workspace: Workspace) -> None:
    uri = f"{workspace.encoders}/{versions_of(SETTINGS, workspace).encoder}"
    curve = [[8, 3.5], [16, 2.0]]
    bundles.publish(uri, {"a": b"1"}, kind="encoder", version="v", lineage={}, details={"curve": curve})
    assert (stage(workspace, "train-encoder").state, stage(workspace, "train-encoder").curve) == ("fresh", (3.5, 2.0))
    other = SETTINGS.model_copy(update={"encoder": EncoderSettings(epochs=99)})
    assert stage(workspace, "train-encoder", other).state == "stale"


def test_a_release_and_its_evaluation_are_fresh_only_together_with_their_settings(workspace: Workspace) -> None:
    version = versions_of(SETTINGS, workspace).release
    part = ReleasePart(uri="x/1", version="1", fingerprint="f")
    release = Release(version=version, created_at="2024", encoder=part, index=part, generator=part)
    releases.publish(workspace, release)
    releases.activate(workspace, version)
    details = {"input_fingerprint": dict(evaluation_of(SETTINGS, versions_of(SETTINGS, workspace)))}
    write_report(
        workspace,
        Report.model_validate(
            {"stage": "evaluate", "done": 4, "skipped": 0, "rejected": 0, "seconds": 1.0, "details": details}
        ),
    )
    assert (stage(workspace, "release").state, stage(workspace, "evaluate").state) == ("fresh", "fresh")
    other = SETTINGS.model_copy(update={"encoder": EncoderSettings(epochs=99)})
    assert (stage(workspace, "release", other).state, stage(workspace, "evaluate", other).state) == ("stale", "stale")


def test_a_stage_that_a_process_is_at_is_running(workspace: Workspace) -> None:
    version = versions_of(SETTINGS, workspace).encoder
    for name, folder in (
        ("spectrograms", workspace.lease("spectrograms")),
        ("train-encoder", workspace.bundle_lease("encoder", version)),
        ("evaluate", workspace.lease("evaluate")),
    ):
        assert stage(workspace, name).state == "missing"
        with leases.hold(folder):
            assert stage(workspace, name).state == "running"
        assert stage(workspace, name).state == "missing"


def test_a_process_that_was_killed_runs_nothing(workspace: Workspace) -> None:
    folder = workspace.lease("covers")
    with leases.hold(folder):
        (info,) = objects.list_objects(folder)
        held = json.loads(objects.read(info.uri))
    objects.put(info.uri, json.dumps({**held, "released": False, "process": "another, of the same pid"}).encode())
    assert not leases.is_held(folder)
    assert stage(workspace, "covers").state == "missing"


@pytest.mark.parametrize(("silent_s", "held"), [(10.0, True), (3_600.0, False)])
def test_of_another_machine_the_last_renewal_says_whether_it_runs(
    workspace: Workspace, silent_s: float, held: bool
) -> None:
    folder = workspace.lease("covers")
    with leases.hold(folder):
        (info,) = objects.list_objects(folder)
        holder = json.loads(objects.read(info.uri))
    other = {**holder, "released": False, "machine": "another", "renewed_at": time.time() - silent_s}
    objects.put(info.uri, json.dumps(other).encode())
    assert stage(workspace, "covers").state == ("running" if held else "missing")


def test_the_first_catalogue_is_running_while_it_is_made(tmp_path: Path) -> None:
    empty = Workspace(objects.resolve(str(tmp_path)))
    with leases.hold(empty.lease("catalogue")):
        assert [one.state for one in status_of(SETTINGS, empty).stages] == ["running"]
    assert [one.state for one in status_of(SETTINGS, empty).stages] == ["missing"]
