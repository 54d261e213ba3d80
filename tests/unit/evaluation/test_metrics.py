"""Metrics against the same thing written as loops, and against values that are known."""

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.evaluation.metrics import (
    average_precision,
    expected_average_precision,
    expected_median_rank,
    expected_recall,
    expected_reciprocal_rank,
    frechet_distance,
    frechet_distances,
    interval,
    interval_around,
    joint_features,
    kernel_distance,
    kernel_distances,
    mean,
    mean_over,
    median,
    precision_at_k,
    ranks_of_own,
    relevance,
    resampled,
)

Matrix = npt.NDArray[np.float64]


def normal(count: int, width: int, seed: int) -> Matrix:
    return np.random.default_rng(seed).standard_normal((count, width))


def test_ranks_are_those_of_a_sort() -> None:
    similarity = normal(40, 40, 0)
    naive = [sorted(row, reverse=True).index(row[i]) + 1 for i, row in enumerate(similarity.tolist())]
    assert ranks_of_own(similarity).tolist() == naive


def test_a_tie_counts_against_a_cover_so_that_a_model_which_says_one_thing_finds_nothing() -> None:
    assert ranks_of_own(np.zeros((50, 50))).tolist() == [50] * 50
    labels = np.array(["a", "b", "b", "b", "b"] * 10)
    relevant = relevance(np.zeros((50, 50)), labels)
    assert not relevant[labels == "a", :40].any()
    assert relevant[labels == "a", 40:].all()


def test_a_model_that_broke_ranks_last_and_not_first() -> None:
    assert ranks_of_own(np.full((9, 9), np.nan)).tolist() == [9] * 9


def test_the_nearest_that_are_alike_are_those_of_a_sort_with_the_own_one_left_out() -> None:
    similarity, labels = normal(30, 30, 1), np.array(["folk", "jazz", ""] * 10)
    relevant = relevance(similarity, labels)
    precision, average = precision_at_k(relevant, 7), average_precision(relevant)
    for i, row in enumerate(similarity):
        order = sorted((j for j in range(30) if j != i), key=lambda j: -row[j])
        alike = [bool(labels[j] == labels[i] != "") for j in order]
        assert relevant[i].tolist() == alike
        if labels[i] == "":
            assert np.isnan([precision[i], average[i]]).all()
            continue
        places = [place for place, hit in enumerate(alike, 1) if hit]
        assert precision[i] == pytest.approx(np.mean(alike[:7]))
        assert average[i] == pytest.approx(np.mean([number / place for number, place in enumerate(places, 1)]))


def test_asking_for_more_than_there_are_is_asking_for_all() -> None:
    relevant = relevance(normal(20, 20, 2), np.array(["a", "b"] * 10))
    assert precision_at_k(relevant, 1_000) == pytest.approx(9 / 19)


def guessed(sizes: list[int], rounds: int = 40_000) -> npt.NDArray[np.int64]:
    """Ranks [rounds, Q] of one who guesses."""
    return np.random.default_rng(0).integers(1, np.array(sizes) + 1, (rounds, len(sizes)))


def test_what_a_guess_is_expected_to_find_is_what_simulated_guesses_find() -> None:
    sizes = [3, 3, 3, 7, 7, 7, 7, 7, 7, 7, 1, 20, 20]
    ranks = guessed(sizes)
    for k in (1, 5, 10):
        assert expected_recall(np.array(sizes), k) == pytest.approx((ranks <= k).mean(), abs=3e-3)
    assert expected_reciprocal_rank(np.array(sizes)) == pytest.approx((1 / ranks).mean(), abs=3e-3)
    assert expected_median_rank(np.array(sizes)) == np.median(ranks)
    assert [expected_median_rank(np.full(n, n)) for n in (4, 255)] == [2.5, 128.0]


def test_the_average_precision_of_a_guess_is_that_of_shuffled_lists() -> None:
    rng, count = np.random.default_rng(0), np.array([0, 1, 4, 11])
    relevant = rng.permuted(np.tile(np.arange(11) < count[:, None], (20_000, 1, 1)), axis=2).reshape(-1, 11)
    simulated = average_precision(relevant).reshape(20_000, 4).mean(0)
    assert expected_average_precision(count, 11)[1:] == pytest.approx(simulated[1:], abs=4e-3)
    assert np.isnan(expected_average_precision(count, 11)[0])


def test_weighted_statistics_are_those_of_values_that_stand_as_often() -> None:
    rng = np.random.default_rng(3)
    values, groups = rng.standard_normal(23).round(1), np.array(list("aaaaabbbbbbbcccccccccdd"))
    weights = rng.integers(0, 4, (50, 23)).astype(np.float64)
    weights[0] = 1
    for number, weight in enumerate(weights.astype(int)):
        standing, group = np.repeat(values, weight), np.repeat(groups, weight)
        assert mean(values, weights)[number] == pytest.approx(standing.mean())
        assert median(values, weights)[number] == pytest.approx(np.median(standing))
        naive = np.mean([standing[group == name].mean() for name in np.unique(group)])
        assert mean_over(groups)(values, weights)[number] == pytest.approx(naive)


def test_a_value_that_is_not_known_does_not_count() -> None:
    values, ones = np.array([1.0, np.nan, 3.0]), np.ones((1, 3))
    assert mean(values, ones) == 2
    assert mean_over(np.array(["a", "b", "a"]))(values, ones) == 2
    assert np.isnan(mean(values, np.array([[0.0, 1.0, 0.0]]))).all()


def test_a_resampling_draws_whole_clusters_as_many_as_there_are_and_the_same_from_one_seed() -> None:
    clusters = list("aabbbcd")
    weights = resampled(clusters, 500, 7)
    assert weights.shape == (500, 7)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 5, 6]].sum(1) == 4).all()
    assert np.array_equal(weights, resampled(clusters, 500, 7))
    assert not np.array_equal(weights, resampled(clusters, 500, 8))
    assert weights[:, 0].mean() == pytest.approx(1, abs=0.1)


def test_an_interval_holds_the_truth_as_often_as_it_says_also_where_songs_of_an_artist_are_alike() -> None:
    rng = np.random.default_rng(5)
    covered: list[bool] = []
    narrow: list[bool] = []
    for seed in range(150):
        artists = np.repeat(np.arange(40), 5)
        values = np.repeat(rng.standard_normal(40), 5) + 0.3 * rng.standard_normal(200)  # the true mean is 0
        for names, found in ((artists.astype(str), covered), (np.arange(200).astype(str), narrow)):
            low, high = interval(values, mean, resampled(names.tolist(), 300, seed))
            found.append(low <= 0 <= high)
    assert 0.87 <= np.mean(covered) <= 0.99
    assert np.mean(narrow) < 0.75  # what drawing song by song would have claimed


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


def test_frechet_distance_of_pictures_that_count_is_that_of_pictures_that_stand_as_often() -> None:
    for width in (3, 40):  # fewer features than pictures, and more
        a, b = normal(12, width, 15), normal(9, width, 16) + 0.5
        rng = np.random.default_rng(17)
        weights_a, weights_b = (rng.integers(0, 3, (4, n)).astype(np.float64) for n in (12, 9))
        for number, found in enumerate(frechet_distances(a, b, weights_a, weights_b)):
            standing = [
                np.repeat(features, weights[number].astype(int), axis=0)
                for features, weights in ((a, weights_a), (b, weights_b))
            ]
            assert found == pytest.approx(frechet_distance(standing[0], standing[1]))


def test_kernel_distance_of_pictures_that_count_pairs_none_with_itself() -> None:
    a, b = normal(6, 4, 18), normal(5, 4, 19) + 0.5
    weights_a, weights_b = np.array([[0.0, 1, 3, 1, 0, 1]]), np.array([[2.0, 0, 1, 1, 1]])

    def mean_kernel(x: Matrix, y: Matrix, w: Matrix, v: Matrix, *, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        values = [w[i] * v[j] * float((x[i] @ y[j] / 4 + 1) ** 3) for i, j in pairs]
        return float(sum(values) / sum(w[i] * v[j] for i, j in pairs))

    w, v = weights_a[0], weights_b[0]
    within = mean_kernel(a, a, w, w, same=True) + mean_kernel(b, b, v, v, same=True)
    naive = within - 2 * mean_kernel(a, b, w, v, same=False)
    assert kernel_distances(a, b, weights_a, weights_b)[0] == pytest.approx(naive)


def test_a_side_of_which_nothing_is_drawn_has_no_distance() -> None:
    a, b, none = normal(4, 3, 20), normal(5, 3, 21), np.zeros((1, 4))
    assert np.isnan(frechet_distances(a, b, none, np.ones((1, 5)))).all()
    assert np.isnan(kernel_distances(a, b, none, np.ones((1, 5)))).all()


def test_the_interval_of_a_distance_holds_it_and_is_narrower_for_more_artists() -> None:
    widths = []
    for artists in (10, 80):
        a, b = normal(artists * 2, 6, 22), normal(artists * 2, 6, 23) + 1
        draws = [resampled([str(n // 2) for n in range(artists * 2)], 200, seed) for seed in (0, 1)]
        for distance, distances in ((frechet_distance, frechet_distances), (kernel_distance, kernel_distances)):
            value = distance(a, b)
            low, high = interval_around(value, distances(a, b, draws[0], draws[1]))
            assert low < value < high
            widths.append(high - low)
    assert (widths[2], widths[3]) < (widths[0], widths[1])


def test_song_and_cover_count_alike_in_joint_features_whatever_their_width() -> None:
    songs, covers = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (normal(5, 4, 24), normal(5, 12, 25)))
    joint = joint_features(songs, covers)
    assert joint.shape == (5, 16)
    np.testing.assert_allclose((joint**2).sum(1), 16)
    np.testing.assert_allclose((joint[:, :4] ** 2).sum(1), (joint[:, 4:] ** 2).sum(1))
    np.testing.assert_allclose(joint @ joint.T / 16, (songs @ songs.T + covers @ covers.T) / 2)
