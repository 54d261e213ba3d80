"""Metrics against the same thing written as loops, and against values that are known."""

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.metrics import frechet_distance, kernel_distance, median_rank, precision_at_k, ranks_of_own, recall_at_k

Matrix = npt.NDArray[np.float64]


def normal(count: int, width: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((count, width))


def test_ranks_are_those_of_a_sort() -> None:
    similarity = normal(40, 40, 0)
    naive = [sorted(row, reverse=True).index(row[i]) + 1 for i, row in enumerate(similarity.tolist())]
    assert ranks_of_own(similarity).tolist() == naive


def test_a_tie_counts_against_a_cover_so_that_a_model_which_says_one_thing_scores_nothing() -> None:
    ranks = ranks_of_own(np.zeros((50, 50)))
    assert (recall_at_k(ranks, 10), median_rank(ranks)) == (0, 50)


def test_a_model_that_broke_ranks_last_and_not_first() -> None:
    assert ranks_of_own(np.full((9, 9), np.nan)).tolist() == [9] * 9


def test_recall_and_median_of_known_ranks() -> None:
    ranks = np.array([1, 2, 10, 11])
    assert [recall_at_k(ranks, k) for k in (1, 10, 11)] == [0.25, 0.75, 1.0]
    assert median_rank(ranks) == 6


def test_precision_is_that_of_a_sort_with_the_own_cover_left_out() -> None:
    similarity, labels = normal(30, 30, 1), np.array(["folk", "jazz", "polka"] * 10)
    naive, chance = [], []
    for i, row in enumerate(similarity):
        others = sorted((j for j in range(30) if j != i), key=lambda j: -row[j])
        naive.append(np.mean([labels[j] == labels[i] for j in others[:7]]))
        chance.append(np.mean([labels[j] == labels[i] for j in others]))
    best = np.mean([min(7, (labels == label).sum() - 1) / 7 for label in labels])
    assert precision_at_k(similarity, labels, 7) == pytest.approx((np.mean(naive), np.mean(chance), best))


def test_precision_over_more_than_there_are_is_that_of_chance() -> None:
    similarity, labels = normal(20, 20, 2), np.array(["a", "b"] * 10)
    precision, chance, _ = precision_at_k(similarity, labels, 1_000)
    assert precision == pytest.approx(chance)


def test_precision_leaves_the_similarities_as_they_were() -> None:
    similarity = normal(5, 5, 3)
    before = similarity.copy()
    precision_at_k(similarity, np.array(list("aabbc")), 2)
    assert np.array_equal(similarity, before)


def test_frechet_distance_of_known_gaussians() -> None:
    a = normal(20_000, 3, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.array([3, 0, 4])) == pytest.approx(25, rel=1e-6)
    between = 4 * np.trace(np.cov(a, rowvar=False)) + 4 * (a.mean(0) ** 2).sum()
    assert frechet_distance(a, 3 * a) == pytest.approx(between)


def test_frechet_distance_is_the_textbooks_with_a_root_by_iteration() -> None:
    a, b = normal(500, 6, 5) @ normal(6, 6, 6), normal(400, 6, 7) @ normal(6, 6, 8) + 1
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root, inverse = cov_a @ cov_b, np.eye(6)
    for _ in range(60):  # Denman and Beavers' iteration
        root, inverse = (root + np.linalg.inv(inverse)) / 2, (inverse + np.linalg.inv(root)) / 2
    naive = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(naive, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(naive, rel=1e-6)


def test_frechet_distance_stands_fewer_pictures_than_features() -> None:
    assert np.isfinite(frechet_distance(normal(5, 20, 9), normal(6, 20, 10)))


def test_kernel_distance_is_its_definition() -> None:
    a, b = normal(12, 4, 11), normal(9, 4, 12) + 0.5

    def kernel(x: Matrix, y: Matrix) -> float:
        return float((x @ y / 4 + 1) ** 3)

    within = [np.mean([kernel(x, y) for i, x in enumerate(s) for j, y in enumerate(s) if i != j]) for s in (a, b)]
    across = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b) == pytest.approx(within[0] + within[1] - 2 * across)


def test_kernel_distance_of_like_sets_is_about_nothing_at_any_size() -> None:
    distances = [kernel_distance(normal(40, 8, 2 * seed), normal(25, 8, 2 * seed + 1)) for seed in range(200)]
    assert abs(np.mean(distances)) < 3 * np.std(distances) / np.sqrt(200)
    assert kernel_distance(normal(200, 8, 0), normal(200, 8, 1) + 1) > 1


def test_kernel_distance_loses_nothing_to_single_precision() -> None:
    a, b = normal(300, 16, 13) + 9, normal(300, 16, 14) + 9
    assert kernel_distance(a.astype(np.float32), b.astype(np.float32)) == pytest.approx(kernel_distance(a, b), abs=1e-2)
