"""The analytic generator written plainly: whole pictures, all sources in every step, no tiles, no threads."""

import torch
from torch import Tensor
from torch.nn import functional as fn

from gatefold.generator.local_score.denoiser import NOISE_FLOOR, Parameters, steps
from gatefold.generator.local_score.palette import colour_maps, recoloured


def window_sum(values: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Sums over (2 half + 1)^2 windows of values [N, S, S], cut off at the border, and by how much larger whole windows
    are [S, S]."""
    padded, size, width = fn.pad(values, (half,) * 4), values.shape[-1], 2 * half + 1
    for dim in (2, 1):
        padded = tree_sum([padded.narrow(dim, shift, size) for shift in range(width)])
    inside = torch.arange(size)
    rows = width / ((inside + half).clamp(max=size - 1) - (inside - half).clamp(min=0) + 1).float()
    return padded, rows[:, None] * rows


def tree_sum(parts: list[Tensor]) -> Tensor:
    """The sum of all: first of the largest powers of two that the count consists of, from the smallest on."""
    total, at, power, count = None, 0, 1, len(parts)
    while power <= count:
        if count & power:
            block = parts[at : at + power]
            while len(block) > 1:
                block = [block[i] + block[i + 1] for i in range(0, len(block), 2)]
            total = block[0] if total is None else total + block[0]
            at += power
        power *= 2
    assert total is not None
    return total


def sample(pyramid: dict[int, Tensor], cosines: Tensor, parameters: Parameters, *, seed: int, size: int) -> Tensor:
    """A picture float32 [3, size, size].

    Args:
        pyramid: uint8 [N, 3, S, S] of the sources by S.
    """
    plan, draw = steps(size), torch.Generator().manual_seed(seed)
    x = torch.randn((3, plan[0].size, plan[0].size), generator=draw)
    prior = cosines / parameters.temperature
    lead = int(torch.multinomial(torch.softmax(prior, 0), 1, generator=draw))
    maps = colour_maps(pyramid[plan[0].size], lead)
    count = len(cosines)
    for number, step in enumerate(plan):
        data = torch.cat([pyramid[step.size], pyramid[step.size].flip(-1)])
        sources = recoloured(data, maps[0].repeat(2, 1, 1), maps[1].repeat(2, 1))
        a, s = 1 - step.t, max(step.t, NOISE_FLOOR)
        error = (sources[:, 0] * sources[:, 0]).addcmul(sources[:, 1], sources[:, 1])
        error = error.addcmul(sources[:, 2], sources[:, 2]) * (a * a)
        for channel in range(3):
            error = error.addcmul(sources[:, channel], x[channel] * (-2 * a))
        half = parameters.half_window(step.size, step.t)
        sums, larger = window_sum(error, half)
        logits = sums * (larger * (-0.5 / (s * s))) + prior.repeat(2)[:, None, None]
        weights = torch.softmax(logits, 0)
        clean = (weights[:, None] * sources).sum(0)
        if step.t >= 0.5:
            share = weights.sum((1, 2), dtype=torch.float64).view(2, count).sum(0) / step.size**2
            prior = prior - 10.0 * (share / parameters.capacity).clamp(min=1).log().float()
        following = plan[number + 1].size if number + 1 < len(plan) else step.size
        if following != step.size:
            clean = fn.interpolate(clean[None], size=(following, following), mode="bicubic")[0]
            noise = torch.randn((3, following, following), generator=draw)
        else:
            noise = (x - a * clean) / s
        x = (1 - step.t_next) * clean + step.t_next * noise
    return x.clamp(-1, 1)
