"""Metrics of retrieval (by rank, by genre) and of generated covers (Fréchet distance, KID), with bootstrap intervals.

Arrays in, numbers out. Retrieval has the expectation of a random ranking beside it; generation is measured by distances
between sets of features.

Shape legend: Q = queries, songs or covers; T = what they are ranked among, their own on the diagonal (T = Q);
R = resamplings; N, M = pictures; C = feature width.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Doubles = npt.NDArray[np.float64]
Ranks = npt.NDArray[np.int64]
Statistic = Callable[[Doubles, Doubles], Doubles]
"""(one value for each query [Q], how often each counts [R, Q]) -> [R]; NaN where none counts"""


# ---- whether each finds its own ----------------------------------------------------------------------------------


def ranks_of_own(similarity: Floats) -> Ranks:
    """int64 [Q]: the rank of each one's own, from 1; ties and NaN count against it.

    Args:
        similarity: [Q, T], own ones on the diagonal.
    """
    own = np.diagonal(similarity)[:, None]
    ranks: Ranks = (~(similarity < own)).sum(1)  # not >=, by which NaN would rank first
    return ranks


def expected_recall(sizes: Ranks, k: int) -> float:
    """Expected recall@k of a random ranking.

    Args:
        sizes: int64 [Q], items that are ranked for each query, its own among them.
    """
    return float((np.minimum(sizes, k) / sizes).mean())


def expected_median_rank(sizes: Ranks) -> float:
    """Median rank of the own one in a random ranking, over all ranks by their probability.

    Args:
        sizes: int64 [Q], items that are ranked for each query, its own among them.
    """
    ranks = np.arange(1, sizes.max() + 1)
    probability = ((ranks[:, None] <= sizes) / sizes).mean(1)
    return float(median(ranks.astype(np.float64), probability[None])[0])


def expected_reciprocal_rank(sizes: Ranks) -> float:
    """Expected mean reciprocal rank of a random ranking.

    Args:
        sizes: int64 [Q], items that are ranked for each query, its own among them.
    """
    return float((harmonic(sizes) / sizes).mean())


def harmonic(n: Ranks) -> Doubles:
    """Harmonic numbers, [...] like `n`: 1 + 1/2 + ... + 1/n of each entry; 0 of 0.

    Args:
        n: int64 [...], from 0.
    """
    sums = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, n.max(initial=0) + 1))])
    return np.asarray(sums[n], dtype=np.float64)


# ---- whether each finds its like ---------------------------------------------------------------------------------


def relevance(similarity: Floats, labels: npt.NDArray[np.str_]) -> npt.NDArray[np.bool_]:
    """[Q, T - 1]: whether the nearest, the next, ... of each has its label; its own is left out, ties count against it.

    Args:
        similarity: [Q, T], own ones on the diagonal.
        labels: [Q], of both sides alike; "" is unknown, and is like nothing.
    """
    size = len(labels)
    same = (labels[:, None] == labels[None, :]) & (labels != "")
    others = ~np.eye(size, dtype=bool)
    away = -similarity[others].reshape(size, size - 1)
    same = same[others].reshape(size, size - 1)
    return np.take_along_axis(same, np.lexsort((same, away), axis=-1), axis=1)


def precision_at_k(relevant: npt.NDArray[np.bool_], k: int) -> Doubles:
    """[Q]: share of the first k, or of all where there are fewer, that is relevant; NaN where there is nothing to find.

    Args:
        relevant: bool [Q, T - 1], in the order of the ranking, as `relevance` gives it.
    """
    precision = relevant[:, :k].mean(1)
    return np.where(relevant.any(1), precision, np.nan)


def average_precision(relevant: npt.NDArray[np.bool_]) -> Doubles:
    """[Q]: mean, over those with the label, of the precision down to each; NaN where there is nothing to find.

    Args:
        relevant: bool [Q, T - 1], in the order of the ranking, as `relevance` gives it.
    """
    precision = relevant.cumsum(1) / np.arange(1, relevant.shape[1] + 1)
    count = relevant.sum(1)
    return np.where(count > 0, (precision * relevant).sum(1) / np.maximum(count, 1), np.nan)


def expected_average_precision(count: Ranks, others: int) -> Doubles:
    """[Q]: average precision of a random ranking; NaN where none is relevant.

    A place n holds a right one with probability count / others, and then 1 + (n - 1)(count - 1) / (others - 1) of the
    first n are right.

    Args:
        count: int64 [Q], how many of those ranked are relevant to each query.
        others: how many are ranked for each query, its own left out.
    """
    first = harmonic(np.array([others]))[0]
    rest = np.maximum(count - 1, 0) / max(others - 1, 1)
    return np.where(count > 0, (first + rest * (others - first)) / others, np.nan)


# ---- statistics, and how sure they are ---------------------------------------------------------------------------


def mean(values: Doubles, weights: Doubles) -> Doubles:
    """Weighted means [R], values that are NaN left out; NaN where none counts.

    Args:
        values: [Q].
        weights: [R, Q], how often each value counts.
    """
    known = ~np.isnan(values)
    return _ratio(weights[:, known] @ values[known], weights[:, known].sum(1))


def median(values: Doubles, weights: Doubles) -> Doubles:
    """Weighted medians [R]; halfway between two values where the weight falls apart there.

    Args:
        values: [Q]; NaN counts as the largest.
        weights: [R, Q], how often each value counts.
    """
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[:, order], axis=1)
    half = below[:, -1:] / 2
    slack = 1e-9 * half  # sums of shares are not exact
    lower, upper = (below >= half - slack).argmax(1), (below > half + slack).argmax(1)
    return np.asarray((values[order][lower] + values[order][upper]) / 2, dtype=np.float64)


def mean_over(groups: npt.NDArray[np.str_]) -> Statistic:
    """The mean of the means of groups, so that each group counts alike however large it is.

    Args:
        groups: str [Q], the group of each query.
    """

    def of_groups(values: Doubles, weights: Doubles) -> Doubles:
        names = np.unique(groups[~np.isnan(values)])
        means = np.array([mean(values[groups == name], weights[:, groups == name]) for name in names])
        drawn = ~np.isnan(means)
        return _ratio(np.where(drawn, means, 0).sum(0), drawn.sum(0))

    return of_groups


def resampled(clusters: Sequence[str], rounds: int, seed: int) -> Doubles:
    """How often each of Q counts in each resampling, [R, Q]: whole clusters are drawn with replacement.

    Songs of one artist are alike, and drawing them one by one would make the figures look surer than they are.

    Args:
        clusters: Q names, the cluster of each.
        rounds: R.
    """
    names, places = np.unique(np.array(clusters), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)
    return drawn[:, places].astype(np.float64)


def interval(values: Doubles, statistic: Statistic, weights: Doubles) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of a statistic.

    Args:
        values: [Q].
        weights: [R, Q], of `resampled`.

    Returns: lower and upper end.
    """
    low, high = np.nanpercentile(statistic(values, weights), [2.5, 97.5])
    return float(low), float(high)


def _ratio(total: Doubles, weight: npt.NDArray[np.number]) -> Doubles:
    return np.asarray(np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0), dtype=np.float64)


# ---- new covers --------------------------------------------------------------------------------------------------


def frechet_distance(a: Floats, b: Floats) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features. Biased upward for few pictures: compare only
    at equal N and M.

    Args:
        a: features [N, C].
        b: features [M, C].

    Source: Heusel et al. 2017, equation 6.
    """
    return float(frechet_distances(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0])


def frechet_distances(a: Floats, b: Floats, weights_a: Doubles, weights_b: Doubles) -> Doubles:
    """`frechet_distance` [R] of weighted pictures; NaN where fewer than two count on a side.

    The trace of the root of a product of two covariances is the sum of the singular values of the product of their
    factors, which are as small as there are pictures however wide the features.

    Args:
        a: features [N, C].
        b: features [M, C].
        weights_a: [R, N], how often each picture counts.
        weights_b: [R, M], likewise.
    """
    one, other = _narrowed(a.astype(np.float64), b.astype(np.float64))
    found = np.full(len(weights_a), np.nan)
    for turn, (w_a, w_b) in enumerate(zip(weights_a, weights_b, strict=True)):
        if (w_a > 0).sum() > 1 and (w_b > 0).sum() > 1:
            (mean_a, factor_a), (mean_b, factor_b) = _gaussian(one, w_a), _gaussian(other, w_b)
            cross = np.linalg.svd(factor_a @ factor_b.T, compute_uv=False).sum()
            spread = (factor_a**2).sum() + (factor_b**2).sum()
            found[turn] = float(((mean_a - mean_b) ** 2).sum() + spread - 2 * cross)
    return found


def _narrowed(a: Doubles, b: Doubles) -> tuple[Doubles, Doubles]:
    """The same pictures [N, K] and [M, K] by coordinates in the space that they span, K at most N + M: no distance
    between them changes."""
    together = np.concatenate([a, b])
    if len(together) >= together.shape[1]:
        return a, b
    coordinates = np.asarray(np.linalg.qr(together.T, mode="r"), dtype=np.float64).T
    return coordinates[: len(a)], coordinates[len(a) :]


def _gaussian(features: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """Mean [C], and X [min(N, C), C] with X' X the covariance."""
    counted, weights = features[weights > 0], weights[weights > 0]
    centre = weights @ counted / weights.sum()
    factor = (counted - centre) * np.sqrt(weights / (weights.sum() - 1))[:, None]
    if len(factor) > factor.shape[1]:
        factor = np.asarray(np.linalg.qr(factor, mode="r"), dtype=np.float64)
    return centre, factor


def kernel_distance(a: Floats, b: Floats) -> float:
    """KID: squared maximum mean discrepancy with the cubic kernel, unbiased, so it can be compared at any N.

    Args:
        a: features [N, C].
        b: features [M, C].

    Source: Binkowski et al. 2018, equation 4 and section 3.
    """
    return float(kernel_distances(a, b, np.ones((1, len(a))), np.ones((1, len(b))))[0])


def kernel_distances(a: Floats, b: Floats, weights_a: Doubles, weights_b: Doubles) -> Doubles:
    """`kernel_distance` [R] of weighted pictures; NaN where fewer than two count on a side. The kernels are computed
    once for all R.

    Args:
        a: features [N, C].
        b: features [M, C].
        weights_a: [R, N], how often each picture counts.
        weights_b: [R, M], likewise.
    """
    one, other = a.astype(np.float64), b.astype(np.float64)  # three sums that nearly cancel
    total = weights_a.sum(1) * weights_b.sum(1)
    across = _ratio(((weights_a @ _kernel(one, other)) * weights_b).sum(1), total)
    distances: Doubles = _within(one, weights_a) + _within(other, weights_b) - 2 * across
    return distances


def _within(features: Doubles, weights: Doubles) -> Doubles:
    """Mean kernel [R] over pairs of different pictures; one that counts twice is no pair with itself."""
    values, squares = _kernel(features, features), weights**2
    pairs = weights.sum(1) ** 2 - squares.sum(1)
    return _ratio(((weights @ values) * weights).sum(1) - squares @ np.diagonal(values), pairs)


def _kernel(x: Floats, y: Floats) -> Doubles:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3, dtype=np.float64)


def interval_around(value: float, rounds: Doubles) -> tuple[float, float]:
    """95 % bootstrap interval of a distance between sets: as far from its value as resamplings are from their mean.

    Resampled sets hold fewer different pictures, by which a distance comes out larger: their percentiles alone could
    lie beside the value.

    Args:
        value: the distance of the whole sets.
        rounds: [R], the distance in each resampling.

    Returns: lower and upper end.
    """
    low, high = np.nanpercentile(rounds - np.nanmean(rounds), [2.5, 97.5])
    return value + float(low), value + float(high)


def joint_features(songs: Floats, covers: Floats) -> Floats:
    """[N, C + D]: each cover beside the song it belongs to, so that a distance between sets also sees whether they fit.

    A distance between covers alone cannot tell a generator that reads the song from one that shuffles its songs: both
    make the same set. Song and cover count alike, and are scaled so that an entry is about one, as the cubic kernel
    expects.

    Args:
        songs: [N, C], unit length.
        covers: [N, D], unit length.

    Source: DeVries et al. 2019, "On the Evaluation of Conditional GANs", section 4.
    """
    scale = float(np.sqrt((songs.shape[1] + covers.shape[1]) / 2))
    features: Floats = np.concatenate([songs * scale, covers * scale], axis=1)
    return features
