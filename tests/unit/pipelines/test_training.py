"""What both trainings share, without Ray: the schedule, the average, the curve, what a step draws, what is told."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pipelines.training import Curve, Descent, adamw, drawing, history, load_state, move_average


def curve_of(losses: list[float], steps: int) -> list[tuple[int, float, int]]:
    curve = Curve(steps)
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
    resumed = Curve(300)
    resumed.load_state_dict(curve_of(losses[:100], steps=300))
    for step, loss in enumerate(losses[100:], 101):
        resumed.add(step, loss)
    assert resumed.state_dict() == curve_of(losses, steps=300)


def test_the_history_of_a_run_is_plain_enough_for_json() -> None:
    told = history({"step": 2, "resumed": [1], "curve": curve_of([3.0, 1.0], steps=2), "average": {}})
    assert told == {"steps": 2, "resumed": [1], "curve": [[1, 3.0], [2, 1.0]]}
    assert json.loads(json.dumps(told)) == told


def test_a_descent_that_goes_on_has_the_rates_and_moments_of_one_that_never_stopped(tmp_path: Path) -> None:
    def run(layer: nn.Linear, descent: Descent, steps: range) -> list[float]:
        rates = []
        for step in steps:
            layer(torch.full((1, 3), float(step))).square().sum().backward()
            rates.append(descent.lr)
            descent.step()
        return rates

    def fresh() -> tuple[nn.Linear, Descent]:
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        return layer, Descent([adamw(layer.parameters(), lr=0.1, weight_decay=0.1)], warmup=0.25, steps=8)

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
    model[0].bias.requires_grad_(False)
    model[1].running_mean.fill_(5.0)  # type: ignore[operator,union-attr]
    move_average(average, model, decay=0.9, step=1)
    assert average[0].weight.unique().tolist() == pytest.approx([0.9])  # 1 / 10 of it stays, not 0.9
    move_average(average, model, decay=0.9, step=1000)
    assert average[0].weight.unique().tolist() == pytest.approx([0.91])
    assert average[0].bias.unique().tolist() == [0]
    assert average[1].running_mean.tolist() == [5, 5]  # type: ignore[operator,union-attr]


def test_a_step_draws_the_same_whenever_it_is_done_and_no_two_workers_do() -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, float]:
        generator = drawing(seed, step, rank)
        return float(torch.rand((), generator=generator)), float(torch.rand(()))

    places = [(0, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 0)]
    first = [drawn(*place) for place in places]
    assert [drawn(*place) for place in reversed(places)] == first[::-1]
    assert len({number for both in first for number in both}) == 8
