"""How good: arrays in, numbers out. Retrieval by rank and by genre, generation by distance between sets of features.

Shape legend: Q = songs asked, T = covers in the gallery, N = pictures, C = feature width.
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def ranks_of_own(similarity: Floats) -> npt.NDArray[np.int64]:
    """Rank [Q], from 1, of each song's own cover (on the diagonal of [Q, Q]); ties and NaN count against it."""
    own = np.diagonal(similarity)[:, None]
    ranks: npt.NDArray[np.int64] = (~(similarity < own)).sum(1)  # not >=, by which NaN would rank first
    return ranks


def recall_at_k(ranks: npt.NDArray[np.int64], k: int) -> float:
    """Share of songs whose own cover is among the first k."""
    return float((ranks <= k).mean())


def median_rank(ranks: npt.NDArray[np.int64]) -> float:
    return float(np.median(ranks))


def precision_at_k(similarity: Floats, labels: npt.NDArray[np.str_], k: int) -> tuple[float, float, float]:
    """Share of the first k covers with the song's label, its own left out; by chance; at best, as labels are rare.

    Args:
        similarity: [Q, Q], songs against covers, own covers on the diagonal.
        labels: [Q], of song and cover alike.
    """
    others = similarity.astype(np.float64, copy=True)
    np.fill_diagonal(others, -np.inf)
    k = min(k, len(labels) - 1)
    nearest = np.argpartition(-others, k - 1, axis=1)[:, :k]
    same = labels[:, None] == labels[None, :]
    chance = (same.sum(1) - 1) / (len(labels) - 1)
    best = np.minimum(same.sum(1) - 1, k) / k
    return float(np.take_along_axis(same, nearest, axis=1).mean()), float(chance.mean()), float(best.mean())


def frechet_distance(a: Floats, b: Floats) -> float:
    """Between Gaussians fitted to features [N, C]. Biased upward for small N: compare only at equal N.

    Source: Heusel et al. 2017, equation 6.
    """
    mean_a, mean_b = a.mean(0), b.mean(0)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # trace of the root of a product of positive matrices, by the eigenvalues of a symmetric one with the same spectrum
    values, vectors = np.linalg.eigh(cov_a)
    root_a = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root_a @ cov_b @ root_a), 0, None)).sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross)


def kernel_distance(a: Floats, b: Floats) -> float:
    """KID: squared maximum mean discrepancy with the cubic kernel, unbiased, so it can be compared at any N.

    Source: Binkowski et al. 2018, equation 4 and section 3.
    """
    a, b = a.astype(np.float64), b.astype(np.float64)  # three sums that nearly cancel
    return _within(a) + _within(b) - 2 * float(_kernel(a, b).mean())


def _within(features: Floats) -> float:
    """Mean kernel over pairs of different pictures."""
    values, n = _kernel(features, features), len(features)
    return float(values.sum() - np.trace(values)) / (n * (n - 1))


def _kernel(x: Floats, y: Floats) -> Floats:
    kernel: Floats = (x @ y.T / x.shape[1] + 1) ** 3
    return kernel


def joint_features(songs: Floats, covers: Floats) -> Floats:
    """[N, 2C]: each cover beside the song it belongs to, so that a distance between sets also sees whether they fit.

    A distance between covers alone cannot tell a generator that listens from one that shuffles its songs: both paint
    the same set. Scaled so that an entry is about one, as the cubic kernel expects.

    Source: DeVries et al. 2019, "On the Evaluation of Conditional GANs", section 4.
    """
    features: Floats = np.concatenate([songs, covers], axis=1) * np.sqrt(songs.shape[1])
    return features
