"""How good generated covers are: real ones score as real ones, and what does not fit its song scores worse."""

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.config import EvaluationSettings
from gatefold.encoder.towers import DualEncoder
from gatefold.evaluation.scorecard import Measure
from gatefold.generator.interface import Attribution, Generated, Share
from pipelines.evaluation.generation_scores import (
    REFERENCE,
    Halves,
    Space,
    at_most,
    distance_measures,
    generation_measures,
    halves_of,
    independent_space,
    largest_share,
    median_measure,
    rank_measure,
    share_measures,
)
from pipelines.evaluation.held_out import HeldOut
from tests.factories import COVER, ENCODER, CoarseColours, unit_vectors
from tests.sounds import AUDIO

WIDTH = 8
SPACE = Space(", here", float(np.sqrt(WIDTH)), lambda pixels: pixels.mean((2, 3)))
Vectors = npt.NDArray[np.float32]


def held_out_songs(count: int = 120, artists: int = 30) -> HeldOut:
    """Songs whose covers lie near them, so that a cover of another song does not fit."""
    songs = unit_vectors(count, WIDTH)
    covers = songs + 0.2 * unit_vectors(count, WIDTH, seed=1)
    covers /= np.linalg.norm(covers, axis=1, keepdims=True)
    names = [f"artist {number % artists}" for number in range(count)]
    return HeldOut([f"s{number}" for number in range(count)], np.array(["jazz"] * count), names, songs, covers)


def asked_of(held_out: HeldOut, **settings: int) -> Halves:
    return halves_of(held_out, EvaluationSettings(**settings))


def by_name(measures: list[Measure]) -> dict[str, Measure]:
    return {measure.measure: measure for measure in measures}


def test_no_song_is_asked_for_and_referred_to() -> None:
    question = asked_of(held_out_songs(), num_generated=40)
    assert len(question.asked) == 40
    assert len(question.reference) == 60
    assert not set(question.asked.tolist()) & set(question.reference.tolist())
    np.testing.assert_array_equal(question.asked, asked_of(held_out_songs(), num_generated=40).asked)


def test_the_reference_is_bounded_however_many_songs_are_held_out() -> None:
    assert len(asked_of(held_out_songs(2 * REFERENCE + 10, 3)).reference) == REFERENCE


def test_real_covers_are_near_and_noise_is_far_and_the_interval_holds_the_figure() -> None:
    question = asked_of(held_out_songs())
    real, noise = question.held_out.covers[question.asked], unit_vectors(60, WIDTH, seed=2) + 1
    reference = question.held_out.covers[question.reference]
    good, bad = (by_name(distance_measures(question, SPACE, x, reference, real)) for x in (real, noise))
    assert list(good) == [
        "Fréchet distance, covers alone, here",
        "Fréchet distance, songs with covers, here",
        "KID, covers alone, here",
        "KID, songs with covers, here",
    ]
    for name, measure in good.items():
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low < measure.value < measure.high
        assert measure.value == measure.baseline_values["real"] == bad[name].baseline_values["real"]
        assert measure.value < bad[name].value
    assert good["KID, covers alone, here"].value == pytest.approx(0, abs=0.1)


def test_covers_that_fit_other_songs_are_as_good_alone_and_worse_with_their_songs() -> None:
    question = asked_of(held_out_songs())
    real, reference = (question.held_out.covers[places] for places in (question.asked, question.reference))
    fitting = by_name(distance_measures(question, SPACE, real, reference))
    moved = by_name(distance_measures(question, SPACE, np.roll(real, 30, axis=0), reference))
    assert moved["KID, covers alone, here"].value == pytest.approx(fitting["KID, covers alone, here"].value)
    joint = fitting["KID, songs with covers, here"]
    assert joint.high is not None
    assert moved["KID, songs with covers, here"].value == pytest.approx(joint.baseline_values["shuffled songs"])
    assert joint.baseline_values["shuffled songs"] > joint.high


def test_songs_of_one_artist_have_no_interval() -> None:
    question = asked_of(held_out_songs(20, artists=1))
    real, reference = (question.held_out.covers[places] for places in (question.asked, question.reference))
    assert {measure.low for measure in distance_measures(question, SPACE, real, reference)} == {None}
    assert rank_measure(question, real).low is None


def test_a_cover_like_its_song_ranks_first_and_one_of_another_song_does_not() -> None:
    question = asked_of(held_out_songs())
    exact = question.held_out.songs[question.asked]
    rank = rank_measure(question, exact, question.held_out.covers[question.asked])
    assert (rank.measure, rank.value) == ("median rank of the song among 100", 1)
    assert rank.baseline_values["real"] < 5
    assert rank.baseline_values["shuffled songs"] > 20


def test_a_median_over_few_songs_leaves_out_resamplings_without_any_of_their_artists() -> None:
    question = asked_of(held_out_songs(artists=30))
    measure = median_measure(question, "some", np.array([1.0, 3.0]), songs=question.asked[:2])
    assert (measure.low, measure.value, measure.high) == (1, 2, 3)


def generated(share: float | None) -> Generated:
    pixels = np.zeros((3, 4, 4), np.uint8)
    if share is None:
        return Generated(0, pixels)
    shares = (Share("a", share, 0.1), Share("b", 1 - share, 0.1))
    return Generated(0, pixels, Attribution(shares, np.zeros((4, 4), np.uint8)))


def test_the_largest_share_has_a_row_where_it_is_known_of_every_cover() -> None:
    question = asked_of(held_out_songs(8, 4), num_generated=8)
    known = [largest_share(generated(share)) for share in (0.6, 0.8, 0.7, 0.9)]
    assert [measure.value for measure in share_measures(question, known)] == [pytest.approx(0.75)]
    assert share_measures(question, [*known[:3], largest_share(generated(None))]) == []
    assert share_measures(question, []) == []


def test_covers_larger_than_real_ones_are_reduced_and_smaller_ones_are_not_enlarged() -> None:
    assert at_most(np.zeros((2, 3, 32, 32), np.uint8), 16).shape == (2, 3, 16, 16)
    assert at_most(np.zeros((2, 3, 8, 8), np.uint8), 16).shape == (2, 3, 8, 8)


def test_both_spaces_are_measured_where_the_features_are_installed() -> None:
    encoder = DualEncoder(ENCODER, AUDIO, COVER).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), np.uint8)
    songs = held_out_songs(24, 8)
    question = asked_of(songs, num_generated=12)
    covers = [pixels[places] for places in (question.asked, question.reference)]
    known = [generated(0.5)] * 12
    own = generation_measures(question, covers[0], encoder=encoder)
    space = independent_space(CoarseColours())
    asked, reference = (space.embed(some) for some in covers)
    both = generation_measures(
        question, covers[0], encoder=encoder, independent=(space, asked, reference, asked), attributed=known
    )
    assert [measure.measure for measure in both] == [
        *(measure.measure for measure in own[:4]),
        *(f"{measure.measure}, independent" for measure in own[:4]),
        "median rank of the song among 24",
        "median largest share of one source",
    ]
    measured = by_name(both)["KID, covers alone, independent"]
    assert measured.value == measured.baseline_values["real"]
