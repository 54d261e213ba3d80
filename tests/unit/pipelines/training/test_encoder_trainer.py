"""A run that stops and goes on ends bit for bit where it would have; the best of its averages is what is kept."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gatefold.config import EncoderSettings, GeneratorSettings, Settings
from gatefold.images.pixels import to_model
from gatefold.storage import objects
from gatefold.storage.models.encoders import publish_encoder
from gatefold.workspace import Workspace
from pipelines.evaluation.held_out import embed_pairs
from pipelines.training import encoder_trainer
from pipelines.training.encoder_trainer import EncoderTrainer, Validation, weights_to_publish
from tests.devices import on_each_device
from tests.factories import COVER, write_pairs
from tests.sounds import AUDIO
from tests.states import reloaded, same

STEPS = 4
BATCH = 6


def settings_of(**encoder: Any) -> Settings:
    encoder_settings = EncoderSettings(**{"embed_dim": 8, "width": 16, "dropout": 0.5, "warmup": 0.5, **encoder})
    return Settings(audio=AUDIO, cover=COVER, generator=GeneratorSettings(size=COVER.size), encoder=encoder_settings)


def batch(step: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(step)
    log_mel = torch.randn(BATCH, AUDIO.windows, AUDIO.n_mels, AUDIO.frames, generator=draw).half()
    pixels = torch.randint(256, (BATCH, 3, COVER.size, COVER.size), dtype=torch.uint8, generator=draw)
    return {"log_mel": log_mel, "pixels": pixels, "genre": torch.arange(BATCH) % 3}


@pytest.mark.parametrize("loss", ["infonce", "sigmoid"])
def test_two_steps_and_two_more_are_four_bit_for_bit(loss: str, tmp_path: Path) -> None:
    settings = settings_of(loss=loss, genre_weight=0.5)
    whole, begun, resumed = (EncoderTrainer(settings, steps=STEPS) for _ in range(3))
    for step in range(STEPS):
        whole.step(step, batch(step))
    for step in range(2):
        begun.step(step, batch(step))
        begun.note_recall(step + 1, 0.5)
        whole.note_recall(step + 1, 0.5)
    whole_best = copy.deepcopy(begun.state_dict()["best"])
    torch.rand(7)  # whatever else has drawn from torch's own generator since
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    for step in range(2, STEPS):
        resumed.step(step, batch(step))
    state, expected = resumed.state_dict(), whole.state_dict()
    assert same(state["best"], whole_best)
    assert same({**state, "best": None}, {**expected, "best": None})


@on_each_device
def test_a_run_goes_on_after_a_stop_on_the_device_it_was_given(device: str, tmp_path: Path) -> None:
    def given(step: int) -> dict[str, Tensor]:
        return {name: tensor.to(device) for name, tensor in batch(step).items()}

    whole, begun, resumed = (
        EncoderTrainer(
            settings_of(), steps=STEPS, device=torch.device(device), prepare=lambda module: module.to(device)
        )
        for _ in range(3)
    )
    expected = [whole.step(step, given(step))["loss"] for step in range(STEPS)]
    losses = [begun.step(step, given(step))["loss"] for step in range(2)]
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    losses += [resumed.step(step, given(step))["loss"] for step in range(2, STEPS)]
    assert losses == pytest.approx(expected, rel=1e-3)
    assert {mean.device.type for mean in resumed.average.parameters()} == {device}


@pytest.mark.parametrize("began_in", [torch.bfloat16, None])
def test_a_run_goes_on_in_the_arithmetic_it_was_begun_in_whatever_is_faster_now(
    began_in: torch.dtype | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(encoder_trainer, "agreed_dtype", lambda _device: began_in)
    begun = EncoderTrainer(settings_of(), steps=STEPS)
    monkeypatch.setattr(encoder_trainer, "agreed_dtype", lambda _device: None if began_in else torch.bfloat16)
    resumed = EncoderTrainer(settings_of(), steps=STEPS)
    assert resumed.dtype != began_in
    resumed.load_state_dict(reloaded(begun.state_dict(), tmp_path))
    assert resumed.dtype == began_in
    assert resumed.step(0, batch(0)) == begun.step(0, batch(0))


@pytest.mark.parametrize("at_once", [1, 4, 5])
@pytest.mark.parametrize("loss", ["infonce", "triplet", "sigmoid"])
def test_a_batch_in_pieces_has_the_loss_and_the_gradients_of_the_whole(
    loss: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_trainer, "agreed_dtype", lambda _device: None)  # bfloat16 rounds by the shape
    given = batch(0)
    pairs = given["log_mel"][:, 0].float(), to_model(given["pixels"])
    settings = (settings_of(loss=loss, dropout=0.0, genre_weight=0.5, pairs_at_once=size) for size in (None, at_once))
    whole, pieces = (EncoderTrainer(one, steps=STEPS) for one in settings)
    losses = [trainer._backward(0, *pairs, given["genre"]) for trainer in (whole, pieces)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    slopes = [[weight.grad for weight in trainer._module.parameters()] for trainer in (whole, pieces)]
    assert max(float(slope.abs().max()) for slope in slopes[0] if slope is not None) > 0.1
    for expected, got in zip(*slopes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)


def test_a_piece_drops_the_same_features_both_times_it_is_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = EncoderTrainer(settings_of(pairs_at_once=4), steps=STEPS)
    made: list[Tensor] = []
    embedded = trainer._embedded

    def noted(song: Tensor, cover: Tensor, drawn: tuple[int, int]) -> list[Tensor]:
        sides = embedded(song, cover, drawn)
        made.append(sides[0].detach().clone())
        return sides

    monkeypatch.setattr(trainer, "_embedded", noted)
    trainer.step(0, batch(0))
    first, second, *again = made
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_what_a_step_drops_and_draws_hangs_on_seed_step_and_worker() -> None:
    def first_loss(seed: int = 0, step: int = 0, rank: int = 0) -> float:
        trainer = EncoderTrainer(settings_of(seed=0), steps=STEPS, rank=rank)
        trainer._settings = settings_of(seed=seed)
        return trainer.step(step, batch(0))["loss"]

    losses = [first_loss(), first_loss(), first_loss(seed=1), first_loss(step=1), first_loss(rank=1)]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 4


def test_the_average_follows_the_weights_and_lags_behind_them() -> None:
    trainer = EncoderTrainer(settings_of(ema_decay=0.9), steps=STEPS)
    means = [weight.clone() for weight in trainer.average.parameters()]
    for step in range(STEPS):
        trainer.step(step, batch(step))
        keep = min(0.9, (step + 1) / (step + 10))
        weights = trainer._module.parameters()
        means = [keep * mean + (1 - keep) * weight.detach() for mean, weight in zip(means, weights, strict=True)]
    for mean, kept in zip(means, trainer.average.parameters(), strict=True):
        assert torch.allclose(mean, kept, atol=1e-6)


def test_the_best_average_is_published_and_of_equals_the_later() -> None:
    trainer = EncoderTrainer(settings_of(), steps=STEPS)
    kept = []
    assert same(weights_to_publish(trainer.state_dict()), trainer.average.state_dict())
    for step, recall in enumerate([0.2, 0.6, 0.6, 0.4]):
        trainer.step(step, batch(step))
        assert trainer.note_recall(step + 1, recall) == {"recall_at_10": recall}
        kept.append(copy.deepcopy(trainer.average.state_dict()))
    best = trainer.state_dict()["best"]
    assert (best["step"], best["recall"]) == (3, 0.6)
    assert same(weights_to_publish(trainer.state_dict()), kept[2])
    assert not same(kept[2], kept[3])


@pytest.mark.parametrize(
    ("patience", "recalls", "stalled"),
    [
        (None, [0.9, 0.1, 0.1, 0.1], False),
        (2, [], False),
        (2, [0.9, 0.1], False),
        (2, [0.9, 0.1, 0.1], True),
        (2, [0.9, 0.1, 0.95], False),
        (2, [0.9, 0.9, 0.9], True),
    ],
)
def test_training_stalls_when_no_recall_was_better_for_as_long_as_patience_lasts(
    patience: int | None, recalls: list[float], stalled: bool
) -> None:
    trainer = EncoderTrainer(settings_of(patience=patience), steps=STEPS)
    for number, recall in enumerate(recalls):
        trainer.note_recall(number, recall)
    assert trainer.has_stalled is stalled


def test_a_weight_for_genres_moves_the_loss_and_none_leaves_it_alone() -> None:
    def loss(weight: float) -> float:
        return EncoderTrainer(settings_of(genre_weight=weight), steps=STEPS).step(0, batch(0))["loss"]

    alone, half, whole = loss(0), loss(0.5), loss(1)
    assert alone < half < whole
    assert whole - half == pytest.approx(half - alone, rel=1e-4)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """With seven songs, two too short for more than one window, and their covers."""
    made = Workspace(objects.resolve(str(tmp_path)))
    write_pairs(made, {f"s{song}": AUDIO.windows if song % 4 else 1 for song in range(7)})
    return made


def test_validation_embeds_as_the_published_encoder_does(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, ids = settings_of(), [f"s{song}" for song in range(7)]
    trainer = EncoderTrainer(settings, steps=STEPS)
    encoder = trainer.average
    measured: list[Any] = []

    def ranks(similarity: Any) -> Any:
        measured.append(similarity)
        return np.array([1, 10, 11, 12])

    monkeypatch.setattr("pipelines.training.encoder_trainer.ranks_of_own", ranks)
    assert Validation(settings, workspace, ids, rank=0, workers=1).recall_of(encoder, trainer.dtype) == 0.5
    uri = f"{workspace.encoders}/e1"
    publish_encoder(uri, encoder, version="e1", lineage={}, details={})
    songs, covers = embed_pairs(settings, workspace, uri, ids[::-1])
    songs, covers = songs[::-1], covers[::-1]
    assert np.allclose(measured[0], songs @ covers.T, atol=0.02)  # bfloat16, where the device has it


def test_every_worker_has_as_many_validation_songs_as_the_others_and_together_they_have_all(
    workspace: Workspace,
) -> None:
    ids = [f"s{song}" for song in range(7)]
    shares = [Validation(settings_of(), workspace, ids, rank, workers=3)._share["pixels"] for rank in range(3)]
    whole = Validation(settings_of(), workspace, ids, 0, workers=1)._share["pixels"]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert np.array_equal(np.concatenate(shares)[:7], whole)


def test_recall_is_measured_as_often_as_asked_and_at_the_end_and_never_without_songs(workspace: Workspace) -> None:
    settings = settings_of(evaluations=3)
    some, none = (Validation(settings, workspace, ids, 0, 1) for ids in (["s0", "s1"], []))
    assert [step for step in range(1, 11) if some.is_due(step, 10)] == [4, 8, 10]
    assert not any(none.is_due(step, 10) for step in range(1, 11))
