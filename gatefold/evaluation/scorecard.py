"""Measures of retrieval and generation, each with a bootstrap interval and the values of baselines.

Baselines are random ranking, random ranking within the genre, an untrained encoder. Arrays in, rows of a table out;
where the embeddings come from is not known here.

Shape legend: Q = held-out songs, each with its own cover.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from gatefold.evaluation import metrics
from gatefold.evaluation.metrics import Doubles, Floats, Statistic

ROUNDS = 1_000
BY_COVER = ", by cover"
"""Ends the name of a measure for which covers are queries among songs; otherwise songs are queries among covers."""
_FOUND, _LISTED = (1, 5, 10), (10, 100)


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    measure: str
    value: float
    low: float | None = None
    """of the 95 % interval; None where nothing was resampled"""
    high: float | None = None
    baseline_values: dict[str, float] = field(default_factory=dict)
    """the same measure of something better or worse, by its name"""

    def row(self) -> dict[str, Any]:
        """As reports keep it."""
        return asdict(self)


@dataclass(frozen=True)
class Metric:
    """A metric of a ranking: one value for each query [Q], and the statistic that aggregates them."""

    values: Doubles
    statistic: Statistic = metrics.mean

    def value(self) -> float:
        """The statistic of the values, each counting once."""
        return float(self.statistic(self.values, np.ones((1, len(self.values))))[0])


def measure_retrieval(
    similarity: Floats,
    genres: npt.NDArray[np.str_],
    artists: Sequence[str],
    *,
    baselines: Mapping[str, Floats],
    seed: int,
) -> list[Measure]:
    """Recall, ranks and genres, with songs as queries first, then covers.

    Args:
        similarity: [Q, Q], songs against covers, own covers on the diagonal.
        genres: [Q]; "" is unknown.
        artists: [Q]; resampled as wholes, so their songs are never drawn apart.
        baselines: name to similarity [Q, Q] of other rankers, measured likewise.
    """
    weights = metrics.resampled(artists, ROUNDS, seed)
    sure = len(set(artists)) > 1
    measures = []
    for ending, turned in (("", False), (BY_COVER, True)):
        measured = _metrics_of(_turned(similarity, turned), genres)
        others = {name: _metrics_of(_turned(baseline, turned), genres) for name, baseline in baselines.items()}
        random = _random_baselines(genres)
        for name, metric in measured.items():
            low, high = metrics.interval(metric.values, metric.statistic, weights) if sure else (None, None)
            values = {baseline: expected[name] for baseline, expected in random.items()}
            values |= {baseline: found[name].value() for baseline, found in others.items()}
            measures.append(Measure(name + ending, metric.value(), low, high, values))
    return measures


def measure_genres(similarity: Floats, genres: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """For each genre that two songs have: how many have it, and the mean average precision either way.

    Args:
        similarity: [Q, Q], songs against covers, own covers on the diagonal.
        genres: str [Q]; "" is unknown.

    Returns: genre to "songs", "mAP" and "mAP, by cover".
    """
    forth, back = (metrics.average_precision(metrics.relevance(s, genres)) for s in (similarity, similarity.T))
    return {
        str(name): {
            "songs": int((genres == name).sum()),
            "mAP": float(forth[genres == name].mean()),
            f"mAP{BY_COVER}": float(back[genres == name].mean()),
        }
        for name in np.unique(genres[~np.isnan(forth)])
    }


def _turned(similarity: Floats, turned: bool) -> Floats:
    return similarity.T if turned else similarity


def _metrics_of(similarity: Floats, genres: npt.NDArray[np.str_]) -> dict[str, Metric]:
    ranks = metrics.ranks_of_own(similarity)
    found = {f"recall@{k}": Metric((ranks <= k).astype(np.float64)) for k in _FOUND}
    found["median rank"] = Metric(ranks.astype(np.float64), metrics.median)
    found["MRR"] = Metric(1 / ranks)
    if _are_comparable(genres):
        relevant = metrics.relevance(similarity, genres)
        found |= {f"genre precision@{k}": Metric(metrics.precision_at_k(relevant, k)) for k in _LISTED}
        found["genre mAP"] = Metric(metrics.average_precision(relevant), metrics.mean_over(genres))
    return found


def _are_comparable(genres: npt.NDArray[np.str_]) -> bool:
    """Whether there is more than one genre, and a song with another of its own."""
    names, counts = np.unique(genres[genres != ""], return_counts=True)
    return len(names) > 1 and bool((counts > 1).any())


def _random_baselines(genres: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """The exact expectation of every measure for a random ranking, and for one that knows the genre of each and
    ranks those of the right genre first, at random.
    """
    _, places, counts = np.unique(genres, return_inverse=True, return_counts=True)
    size, alike = np.full(len(genres), len(genres)), counts[places]
    chance, by_genre = _expected(size), _expected(alike)
    if not _are_comparable(genres):
        return {"chance": chance}
    like = np.where(genres == "", 0, alike - 1)
    statistic = partial(metrics.mean, weights=np.ones((1, len(genres))))
    for k in _LISTED:
        k_or_all = min(k, len(genres) - 1)
        shares = (like / (len(genres) - 1), np.minimum(like, k_or_all) / k_or_all)
        for expected, share in zip((chance, by_genre), shares, strict=True):
            expected[f"genre precision@{k}"] = float(statistic(np.where(like > 0, share, np.nan))[0])
    blind = Metric(metrics.expected_average_precision(like, len(genres) - 1), metrics.mean_over(genres))
    chance["genre mAP"], by_genre["genre mAP"] = blind.value(), 1.0
    return {"chance": chance, "by genre": by_genre}


def _expected(sizes: npt.NDArray[np.int64]) -> dict[str, float]:
    return {
        **{f"recall@{k}": metrics.expected_recall(sizes, k) for k in _FOUND},
        "median rank": metrics.expected_median_rank(sizes),
        "MRR": metrics.expected_reciprocal_rank(sizes),
    }


# ---- as tables --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MeasureTable:
    """Rows of one table, ready to be shown; all columns but the first are numbers, or "" for none."""

    columns: list[str]
    rows: list[list[str]]


def measure_tables(rows: Sequence[Mapping[str, Any]]) -> list[MeasureTable]:
    """The rows of `Measure.row` as tables of at most 100 characters a line: those that have baselines in common
    are put in one table."""
    groups: list[list[Mapping[str, Any]]] = []
    for row in rows:
        names = set(row["baseline_values"])
        alike = (one for one in groups if _baseline_names(one) & names or not (_baseline_names(one) or names))
        group = next(alike, None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return [_measure_table(group) for group in groups]


def _baseline_names(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {name for row in rows for name in row["baseline_values"]}


def _measure_table(rows: Sequence[Mapping[str, Any]]) -> MeasureTable:
    baselines = list(dict.fromkeys(name for row in rows for name in row["baseline_values"]))
    resampled = any(row["low"] is not None for row in rows)
    cells = []
    for row in rows:
        span = "" if row["low"] is None else f"{_shown(row['low'])}–{_shown(row['high'])}"
        others = [_shown(row["baseline_values"][name]) if name in row["baseline_values"] else "" for name in baselines]
        cells.append([row["measure"], _shown(row["value"]), *([span] if resampled else []), *others])
    return MeasureTable(["measure", "value", *(["95 %"] if resampled else []), *baselines], cells)


_ORIGINALITY = {
    "share": "largest share of one source",
    "region": "largest connected region of one source",
    "likeness": "likeness to the nearest cover of the catalogue",
}


def side_by_side(names: Sequence[str], tables: Sequence[Sequence[Mapping[str, Any]]]) -> MeasureTable:
    """Tables of measures, one column each, headed by `names`: value and half the width of its interval.

    A measure that a table lacks is left empty there; chance and ceiling come last, where the first table has them.
    """
    baselines = [name for name in ("chance", "ceiling") if name in tables[0][0]["baseline_values"]]
    by_name = [{row["measure"]: row for row in rows} for rows in tables]
    measures = list(dict.fromkeys(name for rows in by_name for name in rows))
    cells = []
    for measure in measures:
        found = [_with_span(rows[measure]) if measure in rows else "" for rows in by_name]
        first = next(rows[measure] for rows in by_name if measure in rows)["baseline_values"]
        cells.append([measure, *found, *(_shown(first[name]) if name in first else "" for name in baselines)])
    return MeasureTable(["measure", *names, *baselines], cells)


def _with_span(row: Mapping[str, Any]) -> str:
    span = "" if row["low"] is None else f" ± {_shown((row['high'] - row['low']) / 2)}"
    return _shown(row["value"]) + span


def _shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables, one below the other."""
    lines = []
    for one in measure_tables(rows):
        lines += ["", f"| {' | '.join(one.columns)} |", f"|---|{'---:|' * (len(one.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in one.rows]
    return "\n".join(lines) + "\n"


def originality_as_markdown(originality: Mapping[str, Any]) -> str:
    """How close generated covers come to existing ones, beside what is allowed; empty where nothing was measured.

    Args:
        originality: of the report of `evaluate`: quantiles of each measure, limits, attempts and refusals.
    """
    quantiles: Mapping[str, Mapping[str, float]] = originality["quantiles"]
    if not quantiles:
        return ""
    shares = [f"{float(quantile):.0%}" for quantile in next(iter(quantiles.values()))]
    head = ["at most, in a share of covers", *shares, "allowed"]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for name, values in quantiles.items():
        cells = [f"{value:.3f}" for value in [*values.values(), originality["limits"][f"max_{name}"]]]
        lines.append(f"| {' | '.join([_ORIGINALITY[name], *cells])} |")
    attempts = ", ".join(f"{count} in attempt {number}" for number, count in originality["attempts"].items())
    refused = ", ".join(f"{count} {code}" for code, count in originality["refused"].items()) or "none"
    return "\n" + "\n".join(lines) + f"\n\nDecided: {attempts}. Refused: {refused}.\n"
