"""The encoder's training on real Ray: a killed process costs the steps since the last checkpoint, and nothing else."""

import os
import signal
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
from tensorboardX.proto.event_pb2 import Event

from gatefold.config import EncoderSettings, GeneratorSettings, Settings, TrainSettings
from gatefold.progress import NOTHING
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.workspace import Workspace
from pipelines.report import Report, read_report
from pipelines.training import training_run
from pipelines.training.train_encoder import train_encoder
from tests.factories import COVER, write_pairs
from tests.kills import meanwhile
from tests.sounds import AUDIO

pytestmark = [pytest.mark.chaos, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]

STEPS, SAVED_EVERY = 24, 6
ENCODER = EncoderSettings(embed_dim=8, width=16, epochs=4, batch_size=8, evaluations=3, genre_weight=0.1)
SETTINGS = Settings(
    audio=AUDIO,
        cover=COVER,
        generator=GeneratorSettings(size=COVER.size),
        encoder=ENCODER, train=TrainSettings(num_workers=2, checkpoint_steps=SAVED_EVERY)
)
STREAMED = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"object_store_fraction": 0.0})})


def workspace_in(folder: Path) -> Workspace:
    """48 songs to train on and 9 to validate on, of three genres."""
    workspace = Workspace(objects.resolve(str(folder)))
    ids = [f"s{number:02}" for number in range(57)]
    rows = [
        {
            "song_id": song_id,
            "audio_uri": "file:///a.wav",
            "genre": f"genre {number % 3}",
            "split": "train" if number < 48 else "validation",
        }
        for number, song_id in enumerate(ids)
    ]
    tracks = pa.Table.from_pylist(rows, schema=TRACKS)
    catalogues.replace(workspace, Catalogue("c1", len(rows), "file:///m.csv"), tracks, 100)
    write_pairs(workspace, dict.fromkeys(ids, AUDIO.windows))
    return workspace


def workers() -> list[int]:
    """Process ids of the training's workers in this session's Ray, which is a child of this process."""
    parents: dict[int, int] = {}
    training: list[int] = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            stat, command = (folder / "stat").read_text(), (folder / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
        if b"RayTrainWorker" in command:
            training.append(int(folder.name))
    return [pid for pid in training if parents.get(parents[pid]) == os.getpid()]


def kill_a_worker_once_saved(workspace: Workspace) -> None:
    runs = Path(workspace.runs.removeprefix("file://"))
    deadline = time.monotonic() + 240
    # a checkpoint counts once Ray has noted it, which may be a second or two after it was written
    while not any("step-" in noted.read_text() for noted in runs.glob("encoder-*/checkpoint_manager_snapshot.json")):
        assert time.monotonic() < deadline, "no checkpoint was ever saved"
        time.sleep(0.01)
    os.kill(workers()[0], signal.SIGKILL)


def journal(workspace: Workspace) -> Iterator[Event]:
    """The events of a run, as TensorBoard reads them: of each its length, a checksum, itself, and another checksum."""
    for path in sorted(Path(workspace.runs.removeprefix("file://")).glob("encoder-*/tensorboard/*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            yield Event.FromString(data[place + 12 : place + 12 + length])
            place += length + 16


def noted(workspace: Workspace, tag: str) -> list[int]:
    """Steps that the journal has a figure for, those left out that a run which was resumed took back."""
    steps: list[int] = []
    for event in journal(workspace):
        if event.HasField("session_log"):
            steps = [step for step in steps if step < event.step]
        steps += [event.step for value in event.summary.value if value.tag == tag]
    return steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Report]:
    workspace = workspace_in(tmp_path_factory.mktemp("undisturbed"))
    return workspace, train_encoder(SETTINGS, workspace)


def test_a_report_shows_how_the_training_went_and_still_does_when_there_is_nothing_to_do(
    undisturbed: tuple[Workspace, Report],
) -> None:
    workspace, report = undisturbed
    assert (report.done, report.details["steps"], report.details["resumed"]) == (48, STEPS, [])
    details: dict[str, Any] = report.details
    curve, recalls = details["curve"], details["recalls"]
    assert isinstance(curve, list)
    assert isinstance(recalls, list)
    assert [step for step, _ in curve] == list(range(1, STEPS + 1))
    assert [step for step, _ in recalls] == [8, 16, 24]
    again = train_encoder(SETTINGS, workspace)
    assert (again.done, again.skipped, again.details) == (0, 1, report.details)
    assert read_report(workspace, "train-encoder") == again


def test_the_event_file_has_every_step_for_tensorboard(undisturbed: tuple[Workspace, Report]) -> None:
    workspace, _ = undisturbed
    assert noted(workspace, "loss") == noted(workspace, "lr") == list(range(1, STEPS + 1))
    assert noted(workspace, "recall_at_10") == [8, 16, 24]


def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_streamed_pairs_teach_the_same(
    undisturbed: tuple[Workspace, Report], tmp_path: Path
) -> None:
    workspace = workspace_in(tmp_path)
    with meanwhile(lambda: kill_a_worker_once_saved(workspace)):
        report = train_encoder(STREAMED, workspace)
    expected = undisturbed[1].details
    assert report.details["resumed"] in ([SAVED_EVERY], [2 * SAVED_EVERY], [3 * SAVED_EVERY])
    assert report.details == {**expected, "resumed": report.details["resumed"]}  # the fingerprint of the weights too
    assert noted(workspace, "loss") == list(range(1, STEPS + 1))


@pytest.mark.parametrize("for_good", [True, False], ids=["for good", "and is started again"])
def test_a_progress_actor_that_dies_with_its_node_costs_no_run(
    undisturbed: tuple[Workspace, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_good: bool
) -> None:
    workspace, reported = workspace_in(tmp_path), list[int]()
    start = training_run.start_progress_actor
    actors: list[Any] = []

    def start_actor() -> Any:
        actors.append(start())
        return actors[0]

    def watch(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        reported.append(done)
        if len(reported) == 1:
            ray.kill(actors[0], no_restart=for_good)

    monkeypatch.setattr(training_run, "start_progress_actor", start_actor)
    report = train_encoder(SETTINGS, workspace, watch)
    assert report.details == undisturbed[1].details  # the fingerprint of the weights too
    assert for_good == (len(reported) == 1), "no step was reported after"
