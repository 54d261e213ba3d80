"""Figures that can be believed: each with the interval that chance may have moved it in, and beside it what one who
guesses, an encoder that learned nothing and one that knows only genres would get. Arrays in, rows of a table out; where
the embeddings come from is not known here.

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
"""Ends the name of a measure for which covers ask among songs; otherwise songs ask among covers."""
_FOUND, _LISTED = (1, 5, 10), (10, 100)


@dataclass(frozen=True)
class Measure:
    """One row of the table."""

    measure: str
    value: float
    low: float | None = None
    """of the 95 % interval; None where nothing was resampled"""
    high: float | None = None
    beside: dict[str, float] = field(default_factory=dict)
    """what the same measure gives for something better or worse, by its name"""

    def row(self) -> dict[str, Any]:
        """As reports keep it."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """What is asked of a ranking: one value for each who asks [Q], and the statistic that makes them a figure."""

    values: Doubles
    statistic: Statistic = metrics.mean

    def figure(self) -> float:
        return float(self.statistic(self.values, np.ones((1, len(self.values))))[0])


def measure_retrieval(
    similarity: Floats,
    genres: npt.NDArray[np.str_],
    artists: Sequence[str],
    *,
    rivals: Mapping[str, Floats],
    seed: int,
) -> list[Measure]:
    """Recall, ranks and genres, songs asking first, then covers.

    Args:
        similarity: [Q, Q], songs against covers, own covers on the diagonal.
        genres: [Q]; "" is unknown.
        artists: [Q]; resampled as wholes, so their songs never stand for each other.
        rivals: name to similarity [Q, Q] of other rankers, to be held beside.
    """
    weights = metrics.resampled(artists, ROUNDS, seed)
    sure = len(set(artists)) > 1
    measures = []
    for ending, turned in (("", False), (BY_COVER, True)):
        asked = _questions(_turned(similarity, turned), genres)
        others = {name: _questions(_turned(rival, turned), genres) for name, rival in rivals.items()}
        guesses = _guesses(genres)
        for name, question in asked.items():
            low, high = metrics.interval(question.values, question.statistic, weights) if sure else (None, None)
            beside = {guess: figures[name] for guess, figures in guesses.items()}
            beside |= {rival: questions[name].figure() for rival, questions in others.items()}
            measures.append(Measure(name + ending, question.figure(), low, high, beside))
    return measures


def measure_genres(similarity: Floats, genres: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """For each genre that two songs have: how many have it, and the mean average precision either way."""
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


def _questions(similarity: Floats, genres: npt.NDArray[np.str_]) -> dict[str, Question]:
    ranks = metrics.ranks_of_own(similarity)
    found = {f"recall@{k}": Question((ranks <= k).astype(np.float64)) for k in _FOUND}
    found["median rank"] = Question(ranks.astype(np.float64), metrics.median)
    found["MRR"] = Question(1 / ranks)
    if _tell_apart(genres):
        relevant = metrics.relevance(similarity, genres)
        found |= {f"genre precision@{k}": Question(metrics.precision_at_k(relevant, k)) for k in _LISTED}
        found["genre mAP"] = Question(metrics.average_precision(relevant), metrics.mean_over(genres))
    return found


def _tell_apart(genres: npt.NDArray[np.str_]) -> bool:
    """Whether there is more than one genre, and a song with another of its own."""
    names, counts = np.unique(genres[genres != ""], return_counts=True)
    return len(names) > 1 and bool((counts > 1).any())


def _guesses(genres: npt.NDArray[np.str_]) -> dict[str, dict[str, float]]:
    """The exact expectation of every measure for one who guesses among all, and for one who knows the genre of each and
    guesses among those of the right one.
    """
    _, places, counts = np.unique(genres, return_inverse=True, return_counts=True)
    size, alike = np.full(len(genres), len(genres)), counts[places]
    chance, by_genre = _guessed(size), _guessed(alike)
    if not _tell_apart(genres):
        return {"chance": chance}
    like = np.where(genres == "", 0, alike - 1)
    statistic = partial(metrics.mean, weights=np.ones((1, len(genres))))
    for k in _LISTED:
        k_or_all = min(k, len(genres) - 1)
        shares = (like / (len(genres) - 1), np.minimum(like, k_or_all) / k_or_all)
        for guess, share in zip((chance, by_genre), shares, strict=True):
            guess[f"genre precision@{k}"] = float(statistic(np.where(like > 0, share, np.nan))[0])
    blind = Question(metrics.expected_average_precision(like, len(genres) - 1), metrics.mean_over(genres))
    chance["genre mAP"], by_genre["genre mAP"] = blind.figure(), 1.0
    return {"chance": chance, "by genre": by_genre}


def _guessed(sizes: npt.NDArray[np.int64]) -> dict[str, float]:
    return {
        **{f"recall@{k}": metrics.expected_recall(sizes, k) for k in _FOUND},
        "median rank": metrics.expected_median_rank(sizes),
        "MRR": metrics.expected_reciprocal_rank(sizes),
    }


# ---- to be read --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """Rows that can stand in one table, ready to be shown; all columns but the first are numbers, or "" for none."""

    columns: list[str]
    rows: list[list[str]]


def sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    """The rows of `Measure.row` as tables of at most 100 characters a line: those that have the same others beside them
    stand together."""
    groups: list[list[Mapping[str, Any]]] = []
    for row in rows:
        alike = (
            group for group in groups if _beside(group) & set(row["beside"]) or not (_beside(group) or row["beside"])
        )
        group = next(alike, None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return [_section(group) for group in groups]


def _beside(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    return {name for row in rows for name in row["beside"]}


def _section(rows: Sequence[Mapping[str, Any]]) -> Section:
    beside = list(dict.fromkeys(name for row in rows for name in row["beside"]))
    resampled = any(row["low"] is not None for row in rows)
    cells = []
    for row in rows:
        span = "" if row["low"] is None else f"{_shown(row['low'])}–{_shown(row['high'])}"
        others = [_shown(row["beside"][name]) if name in row["beside"] else "" for name in beside]
        cells.append([row["measure"], _shown(row["value"]), *([span] if resampled else []), *others])
    return Section(["measure", "value", *(["95 %"] if resampled else []), *beside], cells)


def side_by_side(names: Sequence[str], tables: Sequence[Sequence[Mapping[str, Any]]]) -> Section:
    """Tables of measures, one column each, headed by `names`: value and half the width of its interval.

    A measure that a table lacks is left empty there; chance and ceiling come last, where the first table has them.
    """
    beside = [name for name in ("chance", "ceiling") if name in tables[0][0]["beside"]]
    by_name = [{row["measure"]: row for row in rows} for rows in tables]
    measures = list(dict.fromkeys(name for rows in by_name for name in rows))
    cells = []
    for measure in measures:
        found = [_with_span(rows[measure]) if measure in rows else "" for rows in by_name]
        first = next(rows[measure] for rows in by_name if measure in rows)["beside"]
        cells.append([measure, *found, *(_shown(first[name]) if name in first else "" for name in beside)])
    return Section(["measure", *names, *beside], cells)


def _with_span(row: Mapping[str, Any]) -> str:
    span = "" if row["low"] is None else f" ± {_shown((row['high'] - row['low']) / 2)}"
    return _shown(row["value"]) + span


def _shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The sections, one below the other."""
    lines = []
    for section in sections(rows):
        lines += ["", f"| {' | '.join(section.columns)} |", f"|---|{'---:|' * (len(section.columns) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in section.rows]
    return "\n".join(lines) + "\n"
