"""Exact diffusion on a few pictures, seen through local windows: the denoiser of the analytic generator, and its steps.

A diffusion model fitted perfectly to N pictures has a closed form: the clean picture expected behind a noisy one is
their average, weighted by how well each explains it. Applied to the window around each pixel instead of the whole
picture, as a convolution would, it composes new pictures from parts of the N, and the weights say for every pixel how
much comes from which. Here is one step for one tile of a picture; `sampler` composes whole pictures.

Source: Kamb & Ganguli 2025, "An analytic theory of creativity in convolutional diffusion models", section 3.3 (local
score machine). The prior of each source, the levels from coarse to fine and the shares' upper bound are ours.

Shape legend: A = sources that are compared, S = pixels a side at a level, h, w = a tile, H, W = a tile with the margin
that its windows reach into.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as fn

COARSEST = 64
"""pixels a side of the first level"""
STEPS = 12
"""denoising steps from pure noise to t = 1/12, which is where the level of 256 pixels ends"""
NOISE_FLOOR = 0.02
"""least t that a window is compared at"""


@dataclass(frozen=True)
class Parameters:
    """How local the denoiser is, how strongly nearer sources are preferred, and the largest share of one source."""

    widest: float
    """side of a window at t = 1, as a share of the picture's side; it shrinks with t"""
    narrowest: int
    """side of the smallest window in pixels"""
    temperature: float
    """log prior of a source = its cosine / temperature"""
    capacity: float
    """share of a picture above which a source's prior is lowered while the picture is composed"""

    def half_window(self, size: int, t: float) -> int:
        """Pixels that a window reaches to each side of its centre.

        Args:
            size: pixels a side of the level.
            t: noise level, 0 (none) to 1 (noise alone).
        """
        return max(self.narrowest, round(self.widest * size * t)) // 2


@dataclass(frozen=True)
class Step:
    """Denoising from noise level t to t_next, on a level of `size` pixels a side. x = (1 - t) clean + t noise."""

    t: float
    t_next: float
    size: int


def levels(size: int) -> list[int]:
    """Pixels a side of each level up to `size`, each about twice the one before.

        64 -> 128 -> 256 -> 512 ...          noise level t:  1 ... 1/2 ... 1/4 ... 1/8 ...
    """
    doublings = max(0, round(math.log2(size / COARSEST)))
    return [*(COARSEST * 2**i for i in range(doublings)), size]


def steps(size: int) -> list[Step]:
    """All denoising steps of a picture. A level is left once t_next is below 1/2, 1/4, ...; large levels add steps."""
    sizes = levels(size)
    times = [1 - i / STEPS for i in range(STEPS)] + [2.0 ** -(4 + i) for i in range(1, len(sizes) - 2)]
    after = [*times[1:], 0.0]
    found, level = [], 0
    for t, t_next in zip(times, after, strict=True):
        found.append(Step(t, t_next, sizes[level]))
        if level + 1 < len(sizes) and t_next < 0.5 ** (level + 1):
            level += 1
    return found


@dataclass(frozen=True)
class Window:
    """The same place of A sources: float32 [A, 3, H, W] in [-1, 1], and squares summed over channels [A, H, W]."""

    sources: Tensor
    squares: Tensor

    @classmethod
    def of(cls, sources: Tensor) -> "Window":
        """The window of these sources, with their squares.

        Args:
            sources: float32 [A, 3, H, W] in [-1, 1].
        """
        squares = sources[:, 0] * sources[:, 0]
        for channel in (1, 2):
            squares.addcmul_(sources[:, channel], sources[:, channel])
        return cls(sources, squares)


def posterior(
    noisy: Tensor, window: Window, log_prior: Tensor, *, t: float, half: int, cut: tuple[int, int, int, int]
) -> Tensor:
    """Weight [A, h, w] of each source at each pixel; they sum to 1 over A.

    Args:
        noisy: float32 [3, H, W], a tile with its margin.
        window: the same place of each source.
        log_prior: float32 [A].
        half: pixels that a window reaches to each side.
        cut: rows above, rows below, columns left and right by which the margin is narrower than `half`, at the
            picture's border; a window that is cut off there counts as if it were whole.
    """
    a, s = 1 - t, max(t, NOISE_FLOOR)
    above, below, left, right = cut
    if a == 0:  # at t = 1 the weights are the prior
        height, width = noisy.shape[1] + above + below - 2 * half, noisy.shape[2] + left + right - 2 * half
        row = log_prior[:, None, None].expand(-1, 1, width).contiguous()  # softmax rounds as in a tile
        return torch.softmax(row, 0).expand(-1, height, -1)
    # |noisy - a source|^2 - |noisy|^2
    error = window.squares * (a * a)
    for channel in range(3):
        error.addcmul_(window.sources[:, channel], noisy[channel] * (-2 * a))
    error = _window_sums(fn.pad(error, (left, right)), half, 2)
    error = _window_sums(fn.pad(error, (0, 0, above, below)), half, 1)
    rows = _coverage(error.shape[1], half, above, below, error.device)
    columns = _coverage(error.shape[2], half, left, right, error.device)
    logits = error * ((rows[:, None] * columns) * (-0.5 / (s * s))) + log_prior[:, None, None]
    return torch.softmax(logits, 0)


def _window_sums(values: Tensor, half: int, dim: int) -> Tensor:
    """Sums over 2 half + 1 neighbouring entries along `dim`, shorter by 2 half.

    Each adds its entries in the same order wherever it is, so that rounding is the same: sums of 1, 2, 4, ... entries.
    """
    width, length = 2 * half + 1, values.shape[dim] - 2 * half
    sums, power, at = values, 1, 0
    total: Tensor | None = None
    while True:
        if width & power:
            part = sums.narrow(dim, at, length)
            total = part if total is None else total + part
            at += power
        power *= 2
        if power > width:
            return total if total is not None else values
        shorter = sums.shape[dim] - power // 2
        sums = sums.narrow(dim, 0, shorter) + sums.narrow(dim, power // 2, shorter)


def _coverage(length: int, half: int, before: int, after: int, device: torch.device) -> Tensor:
    """[length] ratio of the full width of a window to its width inside the picture, along one axis."""
    place = torch.arange(length, device=device, dtype=torch.float32)
    outside = (before - place).clamp(min=0) + (after - (length - 1 - place)).clamp(min=0)
    width = 2 * half + 1
    return width / (width - outside)
