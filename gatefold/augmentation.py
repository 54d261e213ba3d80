"""What a song or a cover may undergo in training without becoming another: mild, random, repeatable from a generator.

Shape legend: B = batch, M = mel bands, F = frames, S = pixels a side.
"""

import torch
from torch import Tensor
from torch.nn import functional as fn

_MEL_MASK, _FRAME_MASK = 0.1, 0.1  # share of a window that SpecAugment hides on each axis
_SHIFT = 1 / 16  # of a cover's side


def augment_song(log_mel: Tensor, generator: torch.Generator) -> Tensor:
    """Turned in time, with one band of mels and one stretch of frames hidden: [B, M, F] -> [B, M, F].

    Source: Park et al. 2019, "SpecAugment", section 2 (masks of the mean value).
    """
    bands, frames = log_mel.shape[1:]
    turned = log_mel.roll(int(torch.randint(frames, (), generator=generator)), dims=2)
    mean = turned.mean((1, 2), keepdim=True)
    hidden = _stretch(len(turned), bands, _MEL_MASK, generator)[:, :, None]
    hidden = hidden | _stretch(len(turned), frames, _FRAME_MASK, generator)[:, None, :]
    return torch.where(hidden.to(turned.device), mean, turned)


def augment_cover(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Moved a little and perhaps mirrored: [B, 3, S, S] -> [B, 3, S, S]. Its colours, which are its style, stay."""
    side = pixels.shape[-1]
    reach = max(1, round(side * _SHIFT))
    padded = fn.pad(pixels, (reach,) * 4, mode="reflect")
    top, left = torch.randint(2 * reach + 1, (2,), generator=generator).tolist()
    return mirror(padded[:, :, top : top + side, left : left + side], generator)


def mirror(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Every other cover, at random, with left and right exchanged: [B, 3, S, S] -> [B, 3, S, S]."""
    mirrored = torch.rand(len(pixels), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None].to(pixels.device), pixels.flip(3), pixels)


def _stretch(size: int, length: int, share: float, generator: torch.Generator) -> Tensor:
    """bool [size, length], true over one random stretch of `share` of the length in each row."""
    width = max(1, round(length * share))
    start = torch.randint(length - width + 1, (size, 1), generator=generator)
    place = torch.arange(length)[None]
    return (place >= start) & (place < start + width)
