"""What songs and covers undergo in training: random, repeatable, and never another song or cover."""

import torch
from torch import Tensor

from gatefold.audio.spectrograms import SILENT, apply_gain, mel_power
from gatefold.encoder.augmentation import augment_cover, augment_song


def drawing(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def windows(count: int = 64) -> Tensor:
    """All alike, each frame its own: what becomes of them shows what was done."""
    return (torch.linspace(-4, 4, 50).expand(count, 16, 50) + torch.linspace(0, 1, 16)[:, None]).clone()


def test_the_same_generator_does_the_same_and_leaves_what_it_was_given() -> None:
    given = windows()
    assert torch.equal(augment_song(given, drawing(1)), augment_song(given, drawing(1)))
    assert not torch.equal(augment_song(given, drawing(1)), augment_song(given, drawing(2)))
    assert torch.equal(given, windows())


def test_windows_differ_in_level_within_what_recordings_do() -> None:
    level = augment_song(torch.zeros(256, 16, 50), drawing(0)).flatten(1).median(1).values
    assert -3.51 <= level.min() < -3
    assert 0.8 < level.max() <= 1.01


def test_some_windows_begin_with_silence_and_none_is_silent() -> None:
    made = augment_song(windows(256), drawing(0))
    silent = (made <= SILENT + 1e-3).float().mean(1) > 0.8  # [B, F]; the hidden bands hold the mean
    paused = silent[:, 0]
    assert 0.15 < paused.float().mean() < 0.45
    assert 0 < silent.sum(1).max() <= 0.3 * 50


def test_a_gain_multiplies_power_and_leaves_silence_silent() -> None:
    log_mel = torch.tensor([[[-2.0, 1.0, SILENT]]])
    softer = mel_power(apply_gain(log_mel, torch.tensor(0.25)))
    assert torch.allclose(softer[..., :2], log_mel[..., :2].exp() / 4, rtol=1e-3)
    assert torch.allclose(apply_gain(log_mel, torch.tensor(9.0))[..., 2], log_mel[..., 2], atol=0.02)


def test_a_cover_keeps_its_colours_and_moves_a_little() -> None:
    covers = torch.rand(8, 3, 32, 32) * 2 - 1
    made = augment_cover(covers, drawing(0))
    assert made.shape == covers.shape
    assert torch.allclose(made.mean((2, 3)), covers.mean((2, 3)), atol=0.08)
    assert not torch.equal(made, covers)
