"""Augmentation of songs (SpecAugment, gain, shift) and covers (crop, mirror) in training, repeatable from a generator.

Shape legend: B = batch, M = mel bands, F = frames, S = pixels a side.
"""

import torch
from torch import Tensor
from torch.nn import functional as fn

from gatefold.audio.spectrograms import SILENT, apply_gain

_MEL_MASK, _FRAME_MASK = 0.1, 0.1  # share of a window that SpecAugment hides on each axis
_GAIN = (-3.5, 1.0)  # nepers of power: 15 dB softer to 4 dB louder
_SILENT_SHARE, _SILENCE_MAX = (
    0.3,
    0.3,
)  # share of windows that begin with silence, and the longest of it as a share of a window
_SHIFT = 1 / 16  # of a cover's side


def augment_song(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """float [B, M, F], the windows with a random gain and a random shift in time, some with leading silence, and with
    one band of mels and one stretch of frames masked.

    Args:
        log_mel: float [B, M, F], natural logarithm of mel power.
        generator: on the CPU; the same state gives the same result.

    Source: Park et al. 2019, "SpecAugment", section 2 (masks of the mean value).
    """
    bands, frames = log_mel.shape[1:]
    gain = torch.empty(len(log_mel), 1, 1).uniform_(*_GAIN, generator=generator).exp()
    shifted = apply_gain(log_mel, gain.to(log_mel)).roll(int(torch.randint(frames, (), generator=generator)), dims=2)
    shifted = shifted.masked_fill(_silence_mask(len(shifted), frames, generator)[:, None, :].to(shifted.device), SILENT)
    mean = shifted.mean((1, 2), keepdim=True)
    hidden = _stretch(len(shifted), bands, _MEL_MASK, generator)[:, :, None]
    hidden = hidden | _stretch(len(shifted), frames, _FRAME_MASK, generator)[:, None, :]
    return torch.where(hidden.to(shifted.device), mean, shifted)


def augment_cover(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """float [B, 3, S, S], the covers shifted a little and perhaps mirrored. Their colours, which are their style, stay.

    Args:
        pixels: float [B, 3, S, S] in [-1, 1].
        generator: on the CPU; the same state gives the same result.
    """
    side = pixels.shape[-1]
    reach = max(1, round(side * _SHIFT))
    padded = fn.pad(pixels, (reach,) * 4, mode="reflect")
    top, left = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    return mirror(padded[:, :, top : top + side, left : left + side], generator)


def mirror(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """float [B, 3, S, S], the covers, each with left and right exchanged at a probability of one half.

    Args:
        pixels: float [B, 3, S, S].
        generator: on the CPU; the same state gives the same result.
    """
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None].to(pixels.device), pixels.flip(3), pixels)


def _silence_mask(size: int, frames: int, generator: torch.Generator) -> Tensor:
    """bool [size, frames], true over the beginning of some rows."""
    some = torch.rand(size, generator=generator) < _SILENT_SHARE
    ends = torch.rand(size, generator=generator) * _SILENCE_MAX * frames * some
    return torch.arange(frames)[None] < ends[:, None].floor()


def _stretch(size: int, length: int, share: float, generator: torch.Generator) -> Tensor:
    """bool [size, length], true over one random stretch of `share` of the length in each row."""
    width = max(1, round(length * share))
    start = torch.randint(length - width + 1, (size, 1), generator=generator)
    place = torch.arange(length)[None]
    return (place >= start) & (place < start + width)
