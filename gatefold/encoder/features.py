"""Hand-made descriptors of a window (timbre, tempo) or a cover (colour, texture), beside what our towers learn.

From a thousand songs a network learns little of tempo, timbre or texture by itself. Strengths are logarithms, over
scales that grow by ratios: so that twice as fast, or twice as fine, is as far anywhere. Knows tensors, no networks.

Shape legend: B = batch, M = mel bands, F = frames, S = pixels a side, N = numbers that describe.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as fn

_RANGE = 10.0  # nepers of power, 43 dB: what lies further below the loudest place of a window counts as silence
_BEAT_BANDS, _ONSET_BANDS = 4, 8  # groups of mel bands whose loudness is followed in time
_TEMPI, _RIPPLES = 24, 10  # scales of what comes again in time, and along pitch
_THUMBNAIL, _SAMPLED = 6, 16  # pixels a side
_LEVELS, _SOFTNESS = 4, 12.0  # of each colour channel in the histogram; how sharply one ends where the next begins
_RARE = 1e-3  # share of a cover's pixels below which a colour hardly counts
_SCALES, _ANGLES = 9, 12  # of the waves of brightness across a cover
_OVERLAP, _SHARPNESS = 0.6, 6.0  # of one scale with the next, in steps between them; of an angle, as of von Mises
_FINEST = 0.4  # of the waves that are looked at, in turns a pixel or a frame: a half is the most there is
_FAINT = 1e-2  # energy below which a wave hardly counts; of texture and grain a tenth of it


def levels(log_mel: Tensor) -> Tensor:
    """float [B, M, F], loudness from -2 (silent) to 2 (the loudest place of the window).

    So the loudness of a recording does not count, nor what is too soft beside the rest of it.

    Args:
        log_mel: float [B, M, F], natural logarithm of mel power.
    """
    below = (log_mel - log_mel.amax((1, 2), keepdim=True)).clamp(min=-_RANGE)
    return 2 + below / (_RANGE / 4)


def describe_song(level: Tensor) -> Tensor:
    """[B, N]: timbre, as mean and spread of each mel band; how fast loudness turns; how much and how suddenly it
    changes; and how closely overtones lie.

    Args:
        level: float [B, M, F] from -2 to 2, of `levels`.

    Source: Pampalk et al. 2002, "Content-Based Organization and Visualization of Music Archives", section 3 (the
    fluctuations of loudness).
    """
    timbre = torch.cat([level.mean(2), level.std(2, correction=0)], dim=1)
    beats = _in_groups(level, _BEAT_BANDS)
    change = _in_groups(level, _ONSET_BANDS).diff(dim=2)
    overtones = _waves((level - level.mean(1, keepdim=True)).transpose(1, 2), _RIPPLES)  # [B, F, 10]
    tempi = _waves(beats - beats.mean(2, keepdim=True), _TEMPI)
    described = [timbre, (tempi + _FAINT).log().flatten(1), change.abs().mean(2), change.std(2)]
    return torch.cat([*described, (overtones.mean(1) + _FAINT).log()], dim=1)


def describe_cover(pixels: Tensor) -> Tensor:
    """[B, N]: a thumbnail, mean and spread of each channel, a histogram of colours, texture by scale and angle, and
    grain.

    Args:
        pixels: float [B, 3, S, S] in [-1, 1].

    Source: Swain & Ballard 1991, "Color Indexing" (the histogram); Oliva & Torralba 2001, "Modeling the Shape of the
    Scene", section 3 (the power spectrum, by scale and angle).
    """
    channels = pixels.flatten(2)
    thumbnail = fn.adaptive_avg_pool2d(pixels, _THUMBNAIL).flatten(1)
    described = [thumbnail, channels.mean(2), channels.std(2, correction=0)]
    return torch.cat([*described, _colours(pixels), _texture(pixels), _grain(pixels)], dim=1)


def _in_groups(level: Tensor, groups: int) -> Tensor:
    """[B, M, F] -> [B, groups, F], means of neighbouring mel bands."""
    return fn.adaptive_avg_pool1d(level.transpose(1, 2), groups).transpose(1, 2)


def _waves(signal: Tensor, scales: int) -> Tensor:
    """[..., N] without its mean -> [..., scales]: mean energy of its waves, from one turn on by ratios."""
    length = signal.shape[-1]
    spectrum = torch.fft.rfft(signal * torch.hann_window(length, device=signal.device)).abs().square() / length
    energy: Tensor = spectrum @ _scale_weights(length, scales).to(signal.device).T
    return energy


def _texture(pixels: Tensor) -> Tensor:
    """[B, 108], logarithms of the energy of waves of brightness, by scale and angle."""
    grey = pixels.mean(1)
    side = grey.shape[-1]
    hann = torch.hann_window(side, device=grey.device)
    waves = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * hann * hann[:, None])
    energy = waves.abs().square().flatten(1) / side**2
    texture: Tensor = energy @ _texture_weights(side).to(grey.device).T
    return (texture + _FAINT / 10).log()


def _grain(pixels: Tensor) -> Tensor:
    """[B, 6], logarithms of how much a pixel differs from its neighbours: in the mean, and where least happens."""
    step = pixels.diff(dim=2).diff(dim=3).abs().flatten(2)
    return (torch.cat([step.mean(2), step.median(2).values], dim=1) + _FAINT / 10).log()


def _colours(pixels: Tensor) -> Tensor:
    """[B, 64], logarithms of the shares of so many colours."""
    sampled = fn.interpolate(pixels, (_SAMPLED, _SAMPLED)).flatten(2)  # [B, 3, P]
    middles = torch.linspace(-1, 1, 2 * _LEVELS + 1, device=pixels.device)[1::2]
    red, green, blue = torch.softmax(-_SOFTNESS * (sampled[..., None] - middles).square(), dim=3).unbind(1)
    two = (red[..., :, None] * green[..., None, :]).flatten(2)  # [B, P, 16]
    shares = two.transpose(1, 2) @ blue / sampled.shape[2]
    return (shares.flatten(1) + _RARE).log()


@lru_cache(maxsize=16)
def _scale_weights(length: int, scales: int) -> Tensor:
    """[scales, length / 2 + 1]: the share of each frequency of a real Fourier transform in the mean of each scale."""
    with torch.inference_mode(False):  # they are kept, and training uses them too
        return _means(_nearness(torch.arange(length // 2 + 1.0), scales, length))


@lru_cache(maxsize=16)
def _texture_weights(side: int) -> Tensor:
    """[scales * angles, side * (side / 2 + 1)]: likewise of a real transform of two dimensions, by scale and angle."""
    with torch.inference_mode(False):
        down, across = torch.fft.fftfreq(side)[:, None] * side, torch.fft.rfftfreq(side) * side
        near = _nearness((down.square() + across.square()).sqrt(), _SCALES, side)
        angles = torch.arange(_ANGLES)[:, None, None] * (math.pi / _ANGLES)
        turned = torch.exp(_SHARPNESS * (torch.cos(2 * (torch.atan2(down, across) - angles)) - 1))
        return _means((near[:, None] * turned).flatten(2).flatten(0, 1))


def _nearness(frequency: Tensor, scales: int, length: int) -> Tensor:
    """[scales, *frequency]: how near each frequency, in turns over the length, lies to each of scales that grow by
    ratios from one turn to the finest; the constant to none."""
    highest = max(math.log(_FINEST * length), 1e-3)
    middles = torch.linspace(0, highest, scales).view(-1, *[1] * frequency.ndim)
    away = (frequency.clamp(min=0.5).log() - middles) / (_OVERLAP * highest / (scales - 1))
    return torch.exp(-away.square() / 2) * (frequency > 0)


def _means(weights: Tensor) -> Tensor:
    """Rows that sum to one."""
    return weights / weights.sum(1, keepdim=True)
