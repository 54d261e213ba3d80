"""What both trainings share, without Ray: the schedule, the average, the curve, what a step draws, what is reported."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
import ray
import ray.exceptions
import ray.train
import torch
from torch import nn

from gatefold.config import GeneratorSettings, Settings
from gatefold.errors import Corrupt
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.bundles import list_bundles
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.leases import hold
from gatefold.storage.models.encoders import build_encoder
from gatefold.workspace import Workspace
from pipelines.training import train_encoder, training_run
from pipelines.training.training_run import (
    LossHistory,
    OptimizerSchedule,
    adamw,
    batches,
    history,
    load_state,
    step_generator,
    update_ema,
)
from tests.factories import COVER, ENCODER, write_pairs
from tests.sounds import AUDIO


def curve_of(losses: list[float], steps: int) -> list[tuple[int, float, int]]:
    curve = LossHistory(steps)
    for step, loss in enumerate(losses, 1):
        curve.add(step, loss)
    return curve.state_dict()


def test_a_curve_has_a_few_dozen_points_however_many_steps_there_are() -> None:
    assert curve_of([3.0, 1.0], steps=2) == [(1, 3.0, 1), (2, 1.0, 1)]
    long = curve_of([float(step) for step in range(1, 1001)], steps=1000)
    assert len(long) == 48
    assert long[0] == (21, 11.0, 21)
    assert long[-1][0] == 1000


def test_a_curve_that_goes_on_from_a_saved_one_is_the_one_of_the_whole_run() -> None:
    losses = torch.rand(300, generator=torch.Generator().manual_seed(0)).tolist()
    resumed = LossHistory(300)
    resumed.load_state_dict(curve_of(losses[:100], steps=300))
    for step, loss in enumerate(losses[100:], 101):
        resumed.add(step, loss)
    assert resumed.state_dict() == curve_of(losses, steps=300)


def test_the_history_of_a_run_is_plain_enough_for_json() -> None:
    plain = history({"step": 2, "resumed": [1], "curve": curve_of([3.0, 1.0], steps=2), "average": {}})
    assert plain == {"steps": 2, "resumed": [1], "curve": [[1, 3.0], [2, 1.0]]}
    assert json.loads(json.dumps(plain)) == plain


def test_a_resumed_optimizer_schedule_has_the_rates_and_moments_of_one_that_never_stopped(tmp_path: Path) -> None:
    def run(layer: nn.Linear, schedule: OptimizerSchedule, steps: range) -> list[float]:
        rates = []
        for step in steps:
            layer(torch.full((1, 3), float(step))).square().sum().backward()
            rates.append(schedule.lr)
            schedule.step()
        return rates

    def fresh() -> tuple[nn.Linear, OptimizerSchedule]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, OptimizerSchedule([adamw(layer.parameters(), lr=0.1, weight_decay=0.1)], warmup=0.25, steps=8)

    whole, begun, resumed = fresh(), fresh(), fresh()
    rates = run(*whole, range(8))
    assert rates == [pytest.approx(0.05), *sorted(rates[1:], reverse=True)]
    assert run(*begun, range(3)) == rates[:3]
    torch.save({"model": begun[0].state_dict(), "descent": begun[1].state_dict()}, tmp_path / "state.pt")
    state = load_state(tmp_path)
    resumed[0].load_state_dict(state["model"])
    resumed[1].load_state_dict(state["descent"])
    assert run(*resumed, range(3, 8)) == rates[3:]
    assert torch.equal(resumed[0].weight, whole[0].weight)


def test_the_average_moves_what_is_learned_and_copies_what_is_counted() -> None:
    model, average = (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)) for _ in range(2))
    for parameter, mean in zip(model.parameters(), average.parameters(), strict=True):
        nn.init.constant_(parameter, 1.0)
        nn.init.constant_(mean, 0.0)
    model.get_parameter("0.bias").requires_grad_(False)
    model.get_buffer("1.running_mean").fill_(5.0)
    update_ema(average, model, decay=0.9, step=1)
    assert torch.unique(average.get_parameter("0.weight")).tolist() == pytest.approx([0.9])  # 1 / 10 stays, not 0.9
    update_ema(average, model, decay=0.9, step=1000)
    assert torch.unique(average.get_parameter("0.weight")).tolist() == pytest.approx([0.91])
    assert torch.unique(average.get_parameter("0.bias")).tolist() == [0]
    assert average.get_buffer("1.running_mean").tolist() == [5, 5]


def test_a_step_draws_the_same_whenever_it_is_done_and_no_two_workers_do() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, float]:
        generator = step_generator(seed, step, rank)
        return float(torch.rand((), generator=generator)), float(torch.rand(()))

    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    first = [drawn(*place) for place in places]
    assert [drawn(*place) for place in reversed(places)] == first[::-1]
    assert len({number for both in first for number in both}) == 8


class ProgressActorDouble:
    """What the driver reads from: each answer is a pair, or an error as Ray raises it."""

    def __init__(self, *answers: tuple[int, int] | Exception) -> None:
        self.answers = list(answers)
        self.read = self

    def remote(self) -> "ProgressActorDouble":
        return self

    def get(self, _: object, timeout: float) -> tuple[int, int]:
        assert timeout < 60
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Fitting:
    """A run that lasts until the progress_actor has given its answers."""

    def __init__(self, progress_actor: ProgressActorDouble) -> None:
        self._progress_actor = progress_actor

    def is_alive(self) -> bool:
        return bool(self._progress_actor.answers)

    def join(self, timeout: float) -> None:
        assert timeout < 60


LOST = (
    ray.exceptions.ActorDiedError(),
    ray.exceptions.ActorUnavailableError("gone", None),
    ray.exceptions.GetTimeoutError(),
)


def test_a_progress_actor_that_is_lost_with_its_node_ends_no_run_and_is_read_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    progress_actor, reported = ProgressActorDouble((1, 9), *LOST, (5, 9)), list[int]()
    monkeypatch.setattr(ray, "get", progress_actor.get)
    with hold(objects.resolve(str(tmp_path))) as lease:
        training_run._follow(Fitting(progress_actor), progress_actor, lease, lambda done, *_: reported.append(done))  # type: ignore[arg-type]
    assert reported == [1, 5]


class Shard:
    """A worker's share of the rows, which has so many batches in each epoch."""

    def __init__(self, *counts: int) -> None:
        self._counts = list(counts)

    def iter_torch_batches(self, **_: object) -> list[dict[str, torch.Tensor]]:
        return [{"row": torch.tensor(number)} for number in range(self._counts.pop(0))]


def steps_of(monkeypatch: pytest.MonkeyPatch, *counts: int, first: int = 0) -> list[tuple[int, int]]:
    """Steps and rows of a run of ten steps, four in an epoch."""
    monkeypatch.setattr(ray.train, "get_dataset_shard", lambda _: Shard(*counts))
    return [(step, int(batch["row"])) for step, batch in batches(8, 4, first, 10, seed=0)]


def test_batches_are_numbered_over_all_epochs_and_go_on_in_the_midst_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 0), (5, 1), (6, 2), (7, 3), (8, 0), (9, 1)]
    assert steps_of(monkeypatch, 4, 5, 4) == whole
    assert steps_of(monkeypatch, 4, 4, first=6) == whole[6:]


@pytest.mark.parametrize("counts", [(0,), (4, 3), (4, 4, 1)])
def test_an_epoch_with_fewer_songs_than_it_was_planned_with_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...]
) -> None:
    with pytest.raises(Corrupt, match=f"epoch {len(counts)} has {counts[-1]} batches of 8 songs .* instead of 4"):
        steps_of(monkeypatch, *counts)


def trained(monkeypatch: pytest.MonkeyPatch, folder: Path, **state: object) -> Workspace:
    """A workspace with songs to train on, in which a training ends with this state."""
    workspace = Workspace(objects.resolve(str(folder / "workspace")))
    rows = [{"song_id": f"s{number}", "audio_uri": "file:///a.wav", "split": "train"} for number in range(4)]
    table = pa.Table.from_pylist(rows, schema=TRACKS)
    catalogues.replace(workspace, Catalogue("c1", len(rows), "file:///m.csv"), table, 100)
    write_pairs(workspace, {row["song_id"]: AUDIO.windows for row in rows})
    weights = build_encoder(ENCODER, AUDIO, COVER).state_dict()
    known = {"step": 5, "resumed": [], "curve": [], "recalls": [], "best": None, "average": weights}
    torch.save(known | state, folder / "state.pt")
    monkeypatch.setattr(train_encoder, "stream_pairs", lambda *_: None)
    monkeypatch.setattr(train_encoder, "run_training", lambda *_, **__: str(folder))
    return workspace


SETTINGS = Settings(audio=AUDIO, cover=COVER, generator=GeneratorSettings(size=COVER.size), encoder=ENCODER)


def test_a_training_that_got_fewer_steps_than_asked_is_not_published(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    workspace = trained(monkeypatch, tmp_path, last=False)
    with pytest.raises(Corrupt, match=r"ended after step 5 and before its last one, so it is not published"):
        train_encoder.train_encoder(SETTINGS, workspace)
    assert list_bundles(workspace.encoders) == []


def test_a_training_that_did_all_its_steps_is_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    workspace = trained(monkeypatch, tmp_path, last=True)
    assert train_encoder.train_encoder(SETTINGS, workspace).done == 4
    assert [bundle.kind for bundle in list_bundles(workspace.encoders)] == ["encoder"]
