"""Colour transfer: the linear map that takes the colours of each source to those of a leading one.

Shape legend: N = sources.
"""

import torch
from torch import Tensor

_REGULAR = 1e-3  # added to each variance, so that a picture of one colour has a map too


def colour_maps(pixels: Tensor, lead: int) -> tuple[Tensor, Tensor]:
    """Linear maps y = matrix x + offset, x in [-1, 1]: the colours of each source, as a normal distribution, become
    those of a leading source at the least mean squared change.

    Args:
        pixels: uint8 [N, 3, S, S].
        lead: number of the leading source.

    Returns: matrices float32 [N, 3, 3] and offsets float32 [N, 3].

    Source: Pitié & Kokaram 2007, "The linear Monge-Kantorovitch linear colour mapping for example-based colour
    transfer", equation 7.
    """
    colours = pixels.flatten(2).double() / 127.5 - 1  # [N, 3, S * S]
    mean = colours.mean(2)
    apart = colours - mean[:, :, None]
    covariance = apart @ apart.transpose(1, 2) / colours.shape[2] + _REGULAR * torch.eye(3, device=pixels.device)
    root = _root(covariance)
    inverse = torch.linalg.inv(root)
    matrices = inverse @ _root(root @ covariance[lead] @ root) @ inverse
    offsets = mean[lead] - (matrices @ mean[:, :, None])[:, :, 0]
    return matrices.float(), offsets.float()


def _root(matrices: Tensor) -> Tensor:
    """Symmetric square roots of positive definite matrices [N, 3, 3]."""
    values, vectors = torch.linalg.eigh(matrices)
    root: Tensor = (vectors * values.clamp(min=0).sqrt()[:, None, :]) @ vectors.transpose(1, 2)
    return root


def recoloured(pixels: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """float32 [N, 3, H, W] in [-1, 1], each picture by its own map; clipped to that range.

    Args:
        pixels: uint8 [N, 3, H, W].
        matrices: float32 [N, 3, 3], of `colour_maps`.
        offsets: float32 [N, 3], of `colour_maps`.
    """
    values = pixels.float().div_(127.5).sub_(1.0)
    mapped = torch.empty_like(values)
    for channel in range(3):
        row = torch.mul(values[:, 0], matrices[:, channel, 0, None, None], out=mapped[:, channel])
        row.addcmul_(values[:, 1], matrices[:, channel, 1, None, None])
        row.addcmul_(values[:, 2], matrices[:, channel, 2, None, None])
        row += offsets[:, channel, None, None]
    return mapped.clamp_(-1.0, 1.0)
