"""A run that stops and goes on ends bit for bit where it would have, on whatever device and in whatever arithmetic."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gatefold.config import GeneratorSettings, Settings
from pipelines.training.muon import Muon
from pipelines.training.transformer_trainer import TransformerTrainer
from tests.devices import on_each_device
from tests.factories import COVER, ENCODER, GENERATOR
from tests.states import reloaded, same

STEPS, BATCH, NEIGHBOURS = 4, 3, GENERATOR.neighbours


def settings_of(**transformer: Any) -> Settings:
    steps = {"steps": STEPS, "warmup": 0.5, **transformer}
    return Settings(
        cover=COVER, encoder=ENCODER, generator=GeneratorSettings(transformer=GENERATOR.model_copy(update=steps))
    )


def batch(step: int) -> dict[str, Tensor]:
    draw, width = torch.Generator().manual_seed(step), ENCODER.embed_dim
    return {
        "pixels": torch.randint(256, (BATCH, 3, COVER.size, COVER.size), dtype=torch.uint8, generator=draw),
        "song_embedding": nn.functional.normalize(torch.randn(BATCH, width, generator=draw), dim=-1),
        "neighbours": nn.functional.normalize(torch.randn(BATCH, NEIGHBOURS, width, generator=draw), dim=-1),
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_two_steps_and_two_more_are_four_bit_for_bit(
    dtype: torch.dtype | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipelines.training.transformer_trainer.agreed_dtype", lambda _device: dtype)
    settings = settings_of()
    whole, begun, resumed = (TransformerTrainer(settings) for _ in range(3))
    expected = [whole.step(step, batch(step)) for step in range(STEPS)]
    figures = [begun.step(step, batch(step)) for step in range(2)]
    torch.rand(7)  # whatever else has drawn from torch's own generator since
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    figures += [resumed.step(step, batch(step)) for step in range(2, STEPS)]
    assert figures == expected
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("began_in", [torch.bfloat16, None])
def test_a_run_goes_on_in_the_arithmetic_it_was_begun_in_whatever_is_faster_now(
    began_in: torch.dtype | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pipelines.training.transformer_trainer.agreed_dtype", lambda _device: began_in)
    begun = TransformerTrainer(settings_of())
    monkeypatch.setattr(
        "pipelines.training.transformer_trainer.agreed_dtype", lambda _device: None if began_in else torch.bfloat16
    )
    resumed = TransformerTrainer(settings_of())
    for step in range(2):
        begun.step(step, batch(step))
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    assert [resumed.step(step, batch(step)) for step in (2, 3)] == [begun.step(step, batch(step)) for step in (2, 3)]
    assert same(resumed.state_dict(), begun.state_dict())


def test_the_state_of_the_optimizers_goes_to_where_prepare_has_put_the_parameters(tmp_path: Path) -> None:
    """As a GPU would: what is loaded must follow the parameters, or the next step mixes devices. Here, types."""
    begun = TransformerTrainer(settings_of())
    begun.step(0, batch(0))
    moved = TransformerTrainer(settings_of(), prepare=lambda module: module.to(torch.float64))
    moved.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    muon = moved.state_dict()["descent"][0]["state"]
    assert {state["momentum_buffer"].dtype for state in muon.values()} == {torch.float64}


@on_each_device
def test_a_run_goes_on_after_a_stop_on_the_device_it_was_given(device: str, tmp_path: Path) -> None:
    def given(step: int) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in batch(step).items()}

    whole, begun, resumed = (
        TransformerTrainer(settings_of(), device=torch.device(device), prepare=lambda module: module.to(device))
        for _ in range(3)
    )
    expected = [whole.step(step, given(step))["loss"] for step in range(STEPS)]
    losses = [begun.step(step, given(step))["loss"] for step in range(2)]
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    losses += [resumed.step(step, given(step))["loss"] for step in range(2, STEPS)]
    assert {mean.device.type for mean in resumed._average.parameters()} == {device}
    assert losses == pytest.approx(expected, rel=1e-3)


def test_what_a_step_draws_hangs_on_seed_step_and_worker() -> None:
    def loss(seed: int = 0, step: int = 0, rank: int = 0) -> float:
        trainer = TransformerTrainer(settings_of(), rank=rank)
        generator = trainer._settings.generator.model_copy(update={"seed": seed})
        trainer._settings = trainer._settings.model_copy(update={"generator": generator})
        return trainer.step(step, batch(0))["loss"]

    losses = [loss(), loss(), loss(seed=1), loss(step=1), loss(rank=1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4


def test_matrices_of_the_blocks_are_muons_and_all_else_is_adamws() -> None:
    trainer = TransformerTrainer(settings_of())
    muon, adamw = trainer._schedule._optimizers
    matrices = [parameter for group in muon.param_groups for parameter in group["params"]]
    others = [parameter for group in adamw.param_groups for parameter in group["params"]]
    assert isinstance(muon, Muon)
    assert matrices
    assert {parameter.ndim for parameter in matrices} == {2}
    assert len(matrices) + len(others) == len(list(trainer._module.parameters()))


def test_the_loss_falls_and_the_average_lags_behind() -> None:
    trainer = TransformerTrainer(settings_of(steps=60, ema_decay=0.9, lr=1e-2))
    losses = [trainer.step(step, batch(0))["loss"] for step in range(60)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    state = trainer.state_dict()
    assert not all(torch.equal(state["model"][name], mean) for name, mean in state["average"].items())
    assert state["curve"][-1][0] == 60
