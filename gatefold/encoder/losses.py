"""Losses of the encoder over the batch of all workers: InfoNCE, triplet and sigmoid of songs and covers, and a
term that is supervised by genre.

Every worker computes the loss of the joined batch, so that the mean of their gradients, which is what a distributed run
descends, is what one worker would have with all the pairs.

Shape legend: B = pairs on this worker, D = width of the joint space. Embeddings are of unit length.
"""

from collections.abc import Callable
from typing import assert_never

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather
from torch.nn import functional as fn

from gatefold.config import EncoderSettings

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(song embeddings [B, D], cover embeddings [B, D], logit scale [], logit bias []) -> []"""


def gathered(features: Tensor) -> Tensor:
    """[workers * B, D], the rows of all workers in rank order, with gradients; `features` itself where there is one
    worker.

    Args:
        features: [B, D], or [B], of this worker.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return features
    return torch.cat(all_gather(features))  # type: ignore[no-untyped-call]


def loss_for(settings: EncoderSettings) -> Loss:
    """The loss that the settings name."""
    match settings.loss:
        case "infonce":
            return lambda song, cover, logit_scale, _: info_nce(song, cover, logit_scale)
        case "sigmoid":
            return sigmoid
        case "triplet":
            # every parameter must take part, or the workers of a distributed run wait for its gradient
            return lambda song, cover, logit_scale, _: triplet(song, cover, settings.margin) + 0 * logit_scale
        case unknown:
            assert_never(unknown)


def info_nce(song: Tensor, cover: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE, a scalar: each song must pick its cover among all covers, each cover its song.

    Args:
        song, cover: [B, D], unit length; row i of both is one pair.
        logit_scale: [], 1 / temperature.

    Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision", figure 3.
    """
    logits = logit_scale * gathered(song) @ gathered(cover).T
    own = torch.arange(len(logits), device=logits.device)
    return (fn.cross_entropy(logits, own) + fn.cross_entropy(logits.T, own)) / 2


def triplet(song: Tensor, cover: Tensor, margin: float) -> Tensor:
    """Triplet loss, a scalar, with one negative each, mined in the batch, in both directions.

    The negative is the hardest that is still farther than the positive, or the hardest of all where none is. With
    simply the hardest, untrained towers collapse to one embedding for all, which costs the margin and stays so.

    Args:
        song, cover: [B, D], unit length; row i of both is one pair.
        margin: in cosine.

    Source: Apolo & Mendoza 2023 (the loss); Schroff et al. 2015, "FaceNet", section 3.2 (semi-hard negatives).
    """
    cosine = gathered(song) @ gathered(cover).T
    own = cosine.diagonal()
    by_song, by_cover = (fn.relu(margin + _hardest_negative(side) - own) for side in (cosine, cosine.T))
    return (by_song + by_cover).mean() / 2


def _hardest_negative(cosine: Tensor) -> Tensor:
    """Cosine [N] of the semi-hard negative in each row of [N, N]."""
    own = cosine.diagonal()[:, None]
    negatives = cosine.masked_fill(torch.eye(len(cosine), dtype=torch.bool, device=cosine.device), -torch.inf)
    farther = negatives.masked_fill(negatives >= own, -torch.inf).amax(1)
    return torch.where(farther.isinf(), negatives.amax(1), farther)


def sigmoid(song: Tensor, cover: Tensor, logit_scale: Tensor, logit_bias: Tensor) -> Tensor:
    """Sigmoid loss, a scalar: of each song and each cover by itself, whether they belong together; summed over the
    covers of a song, the mean over songs.

    Args:
        song, cover: [B, D], unit length; row i of both is one pair.
        logit_scale: [], 1 / temperature.
        logit_bias: [], added to every logit.

    Source: Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", algorithm 1.
    """
    logits = logit_scale * gathered(song) @ gathered(cover).T + logit_bias
    belongs = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -fn.logsigmoid(belongs * logits).sum() / len(logits)


def genre_contrast(song: Tensor, cover: Tensor, genre: Tensor, temperature: float) -> Tensor:
    """Supervised contrastive loss, a scalar: songs and covers of one genre are to lie together, away from those of
    others.

    Args:
        song, cover: [B, D], unit length.
        genre: int64 [B], a number for each genre; pairs below 0, whose genre is not known, take no part.
        temperature: that cosines are divided by.

    Returns: the mean over all that take part, of both sides; 0 where none does.

    Source: Khosla et al. 2020, "Supervised Contrastive Learning", equation 2.
    """
    features, genres = torch.cat([gathered(song), gathered(cover)]), gathered(genre).repeat(2)
    known = genres >= 0
    features, genres = features[known], genres[known]
    itself = torch.eye(len(genres), dtype=torch.bool, device=genres.device)
    logits = (features @ features.T / temperature).masked_fill(itself, -torch.inf)
    of_genre = (genres[:, None] == genres) & ~itself  # never empty: a song has its own cover
    log_probability = (logits - logits.logsumexp(1, keepdim=True)).masked_fill(~of_genre, 0)
    return -(log_probability.sum(1) / of_genre.sum(1)).sum() / max(len(genres), 1)
