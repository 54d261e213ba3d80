"""Scores of generated covers: in the encoder's space, on which a generator is conditioned, and in features that no
part of gatefold is trained with. Pixels in, rows of a table out; where the pixels come from is not known here.

Each distance is taken twice: of covers alone, and of songs with their covers, which also depends on whether a cover
fits its song. Its baselines are the same distance for real covers (as good as it gets) and for the same covers given to
other songs (as bad as it gets).

Shape legend: Q = held-out songs, A = songs that covers are generated for, B = songs whose covers are the reference,
S = pixels a side (of each set its own), D = width of the encoder's space, C = width of a space, R = resamplings.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gatefold.config import EvaluationSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.evaluation import metrics
from gatefold.evaluation.metrics import Doubles, Floats
from gatefold.evaluation.scorecard import ROUNDS, Measure
from gatefold.generator.interface import Generated
from gatefold.images.likeness import IndependentFeatures
from gatefold.images.pixels import resized
from pipelines.evaluation.held_out import HeldOut

FRECHET_ROUNDS = 200
"""resamplings for a Fréchet distance, of which each costs a singular value decomposition"""
REFERENCE = 2_000
"""covers of the reference at most, for the kernels hold a number for each pair of them"""
INDEPENDENT = ", independent"
"""ends the name of a measure in independent features; the others are in the encoder's space"""
SHUFFLED = "shuffled songs"
_BATCH = 256  # covers embedded together

Places = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
_Distances = Callable[[Floats, Floats, Doubles, Doubles], Doubles]
_DISTANCES: tuple[tuple[str, _Distances, int], ...] = (
    ("Fréchet distance", metrics.frechet_distances, FRECHET_ROUNDS),
    ("KID", metrics.kernel_distances, ROUNDS),
)


@dataclass(frozen=True)
class Space:
    """Features in which covers are compared."""

    ending: str
    """of the name of a measure in this space"""
    scale: float
    """what features are multiplied by before sets of them are compared"""
    embed: Callable[[Pixels], Floats]
    """pixels uint8 [N, 3, S, S] -> [N, C]"""


@dataclass(frozen=True)
class Halves:
    """Which held-out songs covers are generated for, which are the reference, and how often each counts.

    No cover is measured against the real cover of its own song.
    """

    held_out: HeldOut
    asked: Places
    """int64 [A]"""
    reference: Places
    """int64 [B]"""
    weights: Doubles
    """[R, Q], whole artists drawn with replacement"""
    settings: EvaluationSettings

    @property
    def sure(self) -> bool:
        """Whether there are two artists, without whom nothing can be said of chance."""
        return len(set(self.held_out.artists)) > 1


def halves_of(held_out: HeldOut, settings: EvaluationSettings) -> Halves:
    """The held-out songs in two halves, drawn by `evaluation.seed`: at most `evaluation.num_generated` to generate for,
    and at most REFERENCE others."""
    order = np.random.default_rng(settings.seed).permutation(len(held_out.ids))
    half = len(order) // 2
    asked, reference = order[:half][: settings.num_generated], order[half:][:REFERENCE]
    return Halves(held_out, asked, reference, metrics.resampled(held_out.artists, ROUNDS, settings.seed), settings)


def encoder_space(encoder: DualEncoder) -> Space:
    """The encoder's own. Covers of another size than the encoder's are resized, by averaging where they are larger."""
    scale = float(np.sqrt(encoder.settings.embed_dim))  # an entry of a unit vector is then about one
    return Space("", scale, lambda pixels: _in_parts(pixels, lambda x: encoder.embed_covers(_own_size(encoder, x))))


def independent_space(network: IndependentFeatures, size: int | None = None) -> Space:
    """That of independent features, of covers as they are, or all brought to `size` pixels a side before.

    Sets are compared as the network has them, as usual for both distances.
    """

    def embed(pixels: Pixels) -> Floats:
        return network.features(pixels if size is None else resized(pixels, size))

    ending = INDEPENDENT if size is None else f"{INDEPENDENT} at {size} px"
    return Space(ending, 1.0, lambda pixels: _in_parts(pixels, embed))


def _own_size(encoder: DualEncoder, pixels: Pixels) -> Pixels:
    return np.ascontiguousarray(resized(pixels, encoder.cover.size))


def _in_parts(pixels: Pixels, embed: Callable[[Pixels], Floats]) -> Floats:
    return np.concatenate([embed(pixels[at : at + _BATCH]) for at in range(0, len(pixels), _BATCH)])


def unit(features: Floats) -> Floats:
    """Features [N, C] of length 1; one that is all zero stays so.

    Args:
        features: [N, C].
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    scaled: Floats = features / np.where(lengths > 0, lengths, 1)
    return scaled


def generation_measures(
    halves: Halves,
    generated: Pixels,
    *,
    encoder: DualEncoder,
    independent: tuple[Space, Floats, Floats, Floats] | None = None,
    attributed: Sequence[Generated] = (),
) -> list[Measure]:
    """Distances in the encoder's space, then in independent features where there are any, the rank of the song, and the
    largest share of one source where it is known.

    Args:
        generated: uint8 [A, 3, S, S], one for each song in `halves.asked`.
        independent: a space, and in it the generated covers [A, C], those of `halves.reference` [B, C] and the songs'
            own [A, C]; None where there is none.
        attributed: the generated covers with what is known of their sources, in the same order.
    """
    covers = halves.held_out.covers
    space = encoder_space(encoder)
    measured = space.embed(generated)
    rows = distance_measures(halves, space, measured, covers[halves.reference], covers[halves.asked])
    if independent is not None:
        rows += distance_measures(halves, *independent)
    rows.append(rank_measure(halves, measured, covers[halves.asked]))
    return rows + share_measures(halves, [largest_share(cover) for cover in attributed])


def at_most(pixels: Pixels, size: int) -> Pixels:
    """Generated covers uint8 [A, 3, s, s], no larger than real ones: more pixels alone are no likeness.

    Args:
        pixels: uint8 [A, 3, S, S].
        size: pixels a side of real covers.
    """
    return resized(pixels, min(pixels.shape[-1], size))


def distance_measures(
    halves: Halves, space: Space, features: Floats, reference: Floats, real: Floats | None = None
) -> list[Measure]:
    """Both distances, of covers alone and of songs with covers.

    Args:
        features: [A, C].
        reference: [B, C].
        real: [A, C] of the songs' own covers; measured as a baseline where given.
    """
    songs = halves.held_out.songs
    asked, others = songs[halves.asked], songs[halves.reference]
    shuffled = np.roll(features, len(features) // 2, axis=0)  # every cover to another song
    baseline_values: dict[str, Floats] = {} if real is None else {"real": real}
    rows = []
    for name, distances, rounds in _DISTANCES:
        sets = (
            features * space.scale,
            reference * space.scale,
            {key: x * space.scale for key, x in baseline_values.items()},
        )
        rows.append(_distance(halves, f"{name}, covers alone{space.ending}", distances, rounds, *sets))
        joint = {key: _joint(asked, x) for key, x in {**baseline_values, SHUFFLED: shuffled}.items()}
        sets = (_joint(asked, features), _joint(others, reference), joint)
        rows.append(_distance(halves, f"{name}, songs with covers{space.ending}", distances, rounds, *sets))
    return rows


def _joint(songs: Floats, features: Floats) -> Floats:
    return metrics.joint_features(songs, unit(features))


def _distance(
    halves: Halves,
    name: str,
    distances: _Distances,
    rounds: int,
    features: Floats,
    reference: Floats,
    baseline_values: dict[str, Floats],
) -> Measure:
    every = np.ones((1, len(features))), np.ones((1, len(reference)))
    value = float(distances(features, reference, *every)[0])
    others = {key: float(distances(x, reference, *every)[0]) for key, x in baseline_values.items()}
    if not halves.sure:
        return Measure(name, value, baseline_values=others)
    drawn = halves.weights[:rounds, halves.asked], halves.weights[:rounds, halves.reference]
    return Measure(name, value, *metrics.interval_around(value, distances(features, reference, *drawn)), others)


def rank_measure(halves: Halves, features: Floats, real: Floats | None = None) -> Measure:
    """Median rank, from 1, of each cover's song among others drawn at random, by the encoder.

    Args:
        features: [A, D] in the encoder's space.
        real: [A, D] of the songs' own covers; measured as a baseline where given.
    """
    shuffled = np.roll(features, len(features) // 2, axis=0)
    among = min(halves.settings.rank_candidates, len(halves.held_out.ids))
    name = f"median rank of the song among {among}"
    baseline_values = {} if real is None else {"real": float(np.median(_ranks(halves, real)))}
    baseline_values[SHUFFLED] = float(np.median(_ranks(halves, shuffled)))
    return median_measure(halves, name, _ranks(halves, features), baseline_values)


def _ranks(halves: Halves, features: Floats) -> Doubles:
    """[A]; the others of a song are the same in each call."""
    held_out, rng = halves.held_out, np.random.default_rng(halves.settings.seed)
    ranks = []
    for own, feature in zip(halves.asked, features, strict=True):
        others = rng.permutation(np.delete(np.arange(len(held_out.ids)), own))[: halves.settings.rank_candidates - 1]
        ranks.append(1 + int((held_out.songs[others] @ feature >= held_out.songs[own] @ feature).sum()))
    return np.array(ranks, np.float64)


def median_measure(
    halves: Halves,
    name: str,
    values: Doubles,
    baseline_values: dict[str, float] | None = None,
    songs: Places | None = None,
) -> Measure:
    """The median of one value for each song.

    Args:
        name: of the measure.
        values: [A], or one for each of `songs`.
        baseline_values: the same measure of something better or worse, by its name.
        songs: int64 [len(values)], which held-out songs they are of; those in `halves.asked` when None.
    """
    value = float(metrics.median(values, np.ones((1, len(values))))[0])
    if not halves.sure:
        return Measure(name, value, baseline_values=baseline_values or {})
    weights = halves.weights[:, halves.asked if songs is None else songs]
    weights = weights[weights.sum(1) > 0]  # where few artists are asked for, a resampling may have none of them
    low, high = metrics.interval(values, metrics.median, weights) if len(weights) else (None, None)
    return Measure(name, value, low, high, baseline_values or {})


def largest_share(cover: Generated) -> float | None:
    """Of one source in a generated cover; None where the model cannot say."""
    return None if cover.attribution is None else cover.attribution.shares[0].share


def share_measures(halves: Halves, shares: Sequence[float | None]) -> list[Measure]:
    """Median of the largest share [A] of one source; no row where it is not known of every cover."""
    known = [share for share in shares if share is not None]
    if not known or len(known) < len(shares):
        return []
    return [median_measure(halves, "median largest share of one source", np.array(known))]
