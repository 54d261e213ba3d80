"""What can be said of a window or a cover without having learned anything: classic descriptors, which our towers take
beside what they learn to see. A thousand songs teach a network little of tempo, timbre or colour that it is not told.

Knows tensors; nothing of networks.

Shape legend: B = batch, M = mel bands, F = frames, S = pixels a side, N = numbers that describe.
"""

import torch
from torch import Tensor
from torch.nn import functional as fn

_RANGE = 10.0  # nepers of power, 43 dB: what lies further below the loudest place of a window counts as silence
_BANDS, _BEATS = 8, 48  # bands whose loudness is followed in time; the slowest of its frequencies, in turns a window
_THUMBNAIL, _SAMPLED = 8, 16  # pixels a side
_LEVELS, _SOFTNESS = 4, 12.0  # of each colour channel in the histogram; how sharply one ends where the next begins
_RARE = 1e-3  # share of a cover's pixels below which a colour hardly counts
_WAVES = 12  # turns across a cover


def levels(log_mel: Tensor) -> Tensor:
    """[B, M, F] natural logarithm of mel power -> the same from -2 (silent) to 2 (the loudest place of the window).

    So the loudness of a recording does not count, nor what is too soft to be heard beside the rest of it.
    """
    below = (log_mel - log_mel.amax((1, 2), keepdim=True)).clamp(min=-_RANGE)
    return 2 + below / (_RANGE / 4)


def describe_song(level: Tensor) -> Tensor:
    """[B, M, F] of `levels` -> [B, N]: timbre, as mean and spread of each mel band, and how fast loudness turns in
    eight groups of them.

    Source: Pampalk et al. 2002, "Content-Based Organization and Visualization of Music Archives", section 3 (the
    fluctuations of loudness).
    """
    grouped = fn.adaptive_avg_pool1d(level.transpose(1, 2), _BANDS).transpose(1, 2)  # [B, 8, F]
    moving = (grouped - grouped.mean(2, keepdim=True)) * torch.hann_window(level.shape[2], device=level.device)
    beats = torch.fft.rfft(moving).abs()[:, :, 1 : 1 + _BEATS]
    return torch.cat([level.mean(2), level.std(2, correction=0), beats.log1p().flatten(1)], dim=1)


def describe_cover(pixels: Tensor) -> Tensor:
    """[B, 3, S, S] in [-1, 1] -> [B, N]: a thumbnail, mean and spread of each channel, a histogram of colours, and the
    patterns that repeat across it.

    Source: Swain & Ballard 1991, "Color Indexing" (the histogram); Oliva & Torralba 2001, "Modeling the Shape of the
    Scene", section 3 (the power spectrum).
    """
    channels = pixels.flatten(2)
    thumbnail = fn.adaptive_avg_pool2d(pixels, _THUMBNAIL).flatten(1)
    described = [thumbnail, channels.mean(2), channels.std(2, correction=0), _colours(pixels), _patterns(pixels)]
    return torch.cat(described, dim=1)


def _colours(pixels: Tensor) -> Tensor:
    """[B, 64], logarithms of the shares of so many colours."""
    sampled = fn.interpolate(pixels, (_SAMPLED, _SAMPLED)).flatten(2)  # [B, 3, P]
    middles = torch.linspace(-1, 1, 2 * _LEVELS + 1, device=pixels.device)[1::2]
    red, green, blue = torch.softmax(-_SOFTNESS * (sampled[..., None] - middles).square(), dim=3).unbind(1)
    two = (red[..., :, None] * green[..., None, :]).flatten(2)  # [B, P, 16]
    shares = two.transpose(1, 2) @ blue / sampled.shape[2]
    return (shares.flatten(1) + _RARE).log()


def _patterns(pixels: Tensor) -> Tensor:
    """Strength of the waves of brightness of up to twelve turns down and across, either way."""
    grey = pixels.mean(1)
    taper = torch.hann_window(grey.shape[-1], device=grey.device)
    waves = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * taper * taper[:, None]).abs()
    down = torch.cat([waves[:, : _WAVES + 1], waves[:, -_WAVES:]], dim=1)  # forwards, backwards
    return down[:, :, : _WAVES + 1].log1p().flatten(1)
