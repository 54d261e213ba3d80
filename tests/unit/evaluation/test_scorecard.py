"""The table of measures: right in both directions, with honest company, and readable."""

import numpy as np
import numpy.typing as npt
import pytest

from gatefold.config import SynthesisSettings
from gatefold.evaluation.metrics import ranks_of_own
from gatefold.evaluation.scorecard import (
    Measure,
    as_markdown,
    measure_genres,
    measure_retrieval,
    measure_tables,
    originality_as_markdown,
    side_by_side,
)
from gatefold.synthetic.catalogue import compose_catalogue, log_odds_of_own, seen_sigma

GENRES = np.array(["folk", "jazz", "jazz", "metal"] * 15)
ARTISTS = [str(number // 3) for number in range(60)]


def similar(seed: int = 0, own: float = 1.5) -> npt.NDArray[np.float64]:
    """Songs against covers [60, 60], their own ones nearer."""
    return np.random.default_rng(seed).standard_normal((60, 60)) + own * np.eye(60)


def measured(similarity: npt.NDArray[np.float64], genres: npt.NDArray[np.str_] = GENRES) -> dict[str, Measure]:
    measures = measure_retrieval(similarity, genres, ARTISTS, baselines={"rival": similar(9)}, seed=0)
    return {measure.measure: measure for measure in measures}


def test_covers_ask_by_the_columns_and_songs_by_the_rows() -> None:
    similarity = similar()
    forth, back = measured(similarity), measured(similarity.T.copy())
    songs_first = [name for name in forth if not name.endswith(", by cover")]
    assert list(forth) == songs_first + [f"{name}, by cover" for name in songs_first]
    for name in songs_first:
        assert forth[f"{name}, by cover"].value == back[name].value
    ranks = ranks_of_own(similarity)
    assert forth["recall@5"].value == (ranks <= 5).mean()
    assert (forth["MRR"].value, forth["median rank"].value) == ((1 / ranks).mean(), np.median(ranks))


def test_every_figure_lies_within_its_interval_which_is_the_same_again() -> None:
    for measure in measured(similar()).values():
        assert measure.low is not None
        assert measure.high is not None
        assert measure.low <= measure.value <= measure.high
    assert measured(similar()) == measured(similar())


def test_one_who_guesses_and_one_who_knows_the_genres_score_what_is_said_of_them() -> None:
    rng = np.random.default_rng(1)
    same = (GENRES[:, None] == GENRES[None, :]).astype(np.float64)
    guesses = [measured(rng.random((60, 60))) for _ in range(60)]
    experts = [measured(same + rng.random((60, 60))) for _ in range(60)]
    said = measured(similar())
    for name in said:
        for played, whose in ((guesses, "chance"), (experts, "by genre")):
            values = [one[name].value for one in played]
            slack = 4 * np.std(values) / np.sqrt(len(values)) + 1e-9
            # a median of few ranks is not quite the median of all that may come
            assert said[name].baseline_values[whose] == pytest.approx(
                np.mean(values), abs=slack + ("median" in name)
            ), name


def test_without_genres_nothing_is_said_of_them() -> None:
    for genres in (np.full(60, ""), np.full(60, "folk"), np.arange(60).astype(str)):
        found = measured(similar(), genres)
        assert not any("genre" in name for name in found)
        assert set(found["recall@1"].baseline_values) == {"chance", "rival"}


def test_every_genre_is_named_and_the_table_has_their_mean() -> None:
    similarity = similar()
    genres = measure_genres(similarity, GENRES)
    assert {name: genre["songs"] for name, genre in genres.items()} == {"folk": 15, "jazz": 30, "metal": 15}
    mean = np.mean([genre["mAP"] for genre in genres.values()])
    assert measured(similarity)["genre mAP"].value == pytest.approx(mean)


def test_one_artist_alone_gives_no_interval() -> None:
    measures = measure_retrieval(similar(), GENRES, ["one"] * 60, baselines={}, seed=0)
    assert all(measure.low is None and measure.high is None for measure in measures)


def test_the_best_ranker_of_a_synthetic_catalogue_beats_genres_and_is_not_perfect() -> None:
    settings = SynthesisSettings(songs=240, artists=48)
    tracks = compose_catalogue(settings)
    latent, seen = (
        np.stack([getattr(t, side).vector() for t in tracks], dtype=np.float64) for side in ("latent", "seen")
    )
    genres = np.array([track.genre for track in tracks])
    sigma = seen_sigma(settings)
    best = log_odds_of_own(latent, seen, genres, sigma)
    artists = [track.artist for track in tracks]
    nearest = np.where(np.isfinite(best), -(((latent[:, None] - seen) / sigma) ** 2).sum(-1), -np.inf)
    for measure in measure_retrieval(best, genres, artists, baselines={"nearest": nearest}, seed=0):
        if measure.measure.startswith("recall"):
            assert measure.baseline_values["by genre"] < measure.value < 1
            assert measure.value >= measure.baseline_values["nearest"] - 0.02
    without = log_odds_of_own(latent, latent, genres, np.zeros(5))
    assert (ranks_of_own(without) == 1).all()


def test_the_table_is_no_wider_than_a_terminal_and_leaves_blank_what_is_not_known() -> None:
    rows = [measure.row() for measure in measured(similar()).values()]
    rows += [Measure("KID, covers alone", 12.5, baseline_values={"real": 0.1}).row()]
    rows += [Measure("KID, songs with covers", 0.25, baseline_values={"real": 0.1, "shuffled songs": 2}).row()]
    first, second = measure_tables(rows)
    assert first.columns == ["measure", "value", "95 %", "chance", "by genre", "rival"]
    assert second.columns == ["measure", "value", "real", "shuffled songs"]
    assert second.rows == [
        ["KID, covers alone", "12.5", "0.100", ""],
        ["KID, songs with covers", "0.250", "0.100", "2.000"],
    ]
    text = as_markdown(rows)
    assert max(map(len, text.splitlines())) <= 100
    assert "| KID, covers alone | 12.5 | 0.100 |  |" in text


def test_rows_with_an_interval_and_other_baselines_are_in_a_table_of_their_own() -> None:
    rows = [Measure("recall@5", 0.5, 0.4, 0.6, {"chance": 0.1}).row()]
    rows += [Measure("KID", 0.25, 0.1, 0.4, {"real": 0.1}).row(), Measure("rank", 3, 2, 4, {"real": 3}).row()]
    rows += [Measure("largest share", 0.2, 0.1, 0.3).row(), Measure("smallest share", 0.1).row()]
    assert [(section.columns, [row[0] for row in section.rows]) for section in measure_tables(rows)] == [
        (["measure", "value", "95 %", "chance"], ["recall@5"]),
        (["measure", "value", "95 %", "real"], ["KID", "rank"]),
        (["measure", "value", "95 %"], ["largest share", "smallest share"]),
    ]
    assert measure_tables(rows)[2].rows[1] == ["smallest share", "0.100", ""]


def test_a_measure_that_one_of_several_lacks_is_left_empty_there() -> None:
    tables = [[Measure("a", 1, 0, 4).row()], [Measure("b", 2).row(), Measure("a", 3).row()]]
    assert side_by_side(["x", "y"], tables).rows == [["a", "1.000 ± 2.000", "3.000"], ["b", "", "2.000"]]


def test_encoders_side_by_side_fit_a_terminal_three_at_a_time() -> None:
    tables = [[measure.row() for measure in measured(similar(seed)).values()] for seed in range(3)]
    compared = side_by_side(["a" * 12, "b" * 12, "c" * 12], tables)
    assert compared.columns == ["measure", "a" * 12, "b" * 12, "c" * 12, "chance"]
    row = tables[1][0]
    assert compared.rows[0][2] == f"{row['value']:.3f} ± {(row['high'] - row['low']) / 2:.3f}"
    widths = [max(map(len, column)) for column in zip(compared.columns, *compared.rows, strict=True)]
    assert sum(widths) + 2 * len(widths) <= 100


def test_how_close_covers_come_to_existing_ones_stands_beside_what_is_allowed() -> None:
    quantiles = {"0.1": 0.1283, "0.5": 0.1708, "1": 0.2493}
    measured = {
        "limits": {"max_share": 0.25, "max_region": 0.3, "max_likeness": 0.95, "attempts": 4},
        "quantiles": {"share": quantiles, "likeness": {"0.1": 0.7, "0.5": 0.8, "1": 0.9268}},
        "attempts": {"1": 137, "2": 6},
        "refused": {"too_like_a_cover": 2},
    }
    assert originality_as_markdown(measured).splitlines() == [
        "",
        "| at most, in a share of covers | 10% | 50% | 100% | allowed |",
        "|---|---:|---:|---:|---:|",
        "| largest share of one source | 0.128 | 0.171 | 0.249 | 0.250 |",
        "| likeness to the nearest cover of the catalogue | 0.700 | 0.800 | 0.927 | 0.950 |",
        "",
        "Decided: 137 in attempt 1, 6 in attempt 2. Refused: 2 too_like_a_cover.",
    ]
    assert "Refused: none." in originality_as_markdown(measured | {"refused": {}})
    assert originality_as_markdown(measured | {"quantiles": {}}) == ""
