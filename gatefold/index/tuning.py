"""Building an index to a recall: its search effort is raised until the recall asked for is measured against exact
search, on queries the index was not made of; and what was measured is stated. Below it there is no index. Of shards
that are built apart, it tells what they are worth together.

Shape legend: Q = queries measured with, T = vectors kept, D = their width.
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict

from gatefold.config import IndexSettings
from gatefold.errors import RecallTooLow
from gatefold.index.vectors import (
    CONSTRUCTION,
    LINKS,
    SEED,
    Ids,
    Kind,
    Vectors,
    build,
    cells_in,
    choose,
    cosines,
    effort_of,
    merge,
    one_thread,
    saved_bytes,
    search,
    set_effort,
    subquantizers_of,
)

DEPTH = 100
"""k of the recall that is measured"""
QUERIES = 512
TIMED = 64
"""queries whose latency is taken"""
_NOISE = 0.3
"""length of what is added to a cover to make a query of it"""


class Figures(BaseModel):
    """What an index says of itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    parameters: dict[str, int]
    """of the build and of a search, the largest of any shard"""
    vectors: int
    width: int
    recall_at_100: float
    """share of the 100 truly nearest that a search for 100 finds"""
    bytes: int
    """of the FAISS part"""
    latency_ms: float
    """median of one query for 100, on one thread; of shards, one after the other"""
    measured_with: str
    """the queries"""


@dataclass(frozen=True)
class Questions:
    """What indexes are measured with."""

    queries: Vectors
    """float32 [Q, D]"""
    told: str
    """what they are"""


@dataclass(frozen=True)
class Answers:
    """To the questions: scores and ids [Q, at most DEPTH] that an index finds (-1 for none), and the true ones."""

    found: tuple[Vectors, Ids]
    truth: tuple[Vectors, Ids]


@dataclass(frozen=True)
class Built:
    """An index, ready to be searched, what it says of itself, and how it answered."""

    vectors: faiss.Index
    figures: Figures
    answers: Answers


def build_tuned(covers: Vectors, songs: Vectors, settings: IndexSettings) -> Built:
    """`build_for` the questions that these covers and songs make."""
    return build_for(covers, questions_of(covers, songs), settings)


def build_for(covers: Vectors, questions: Questions, settings: IndexSettings) -> Built:
    """The index of covers [T, D] that reaches `settings.recall`.

    Raises: RecallTooLow naming kind, recall reached and recall asked for; InvalidSettings.
    """
    (count, width), queries = covers.shape, questions.queries
    kind = choose(count, width, settings)
    index = build(covers, kind)
    found = truth = _exact(covers, queries)
    recall = 1.0
    if kind != "flat" and len(queries):
        recall = _tune(index, queries, truth[1], settings.recall)
        found = _found(index, covers, queries)
    figures = Figures(
        kind=kind,
        parameters=_made_with(index, width) | effort_of(index),
        vectors=count,
        width=width,
        recall_at_100=round(recall, 4),
        bytes=saved_bytes(index),
        latency_ms=round(_latency_ms(index, queries), 4),
        measured_with=questions.told,
    )
    return Built(index, figures, Answers(found, truth))


def of_shards(shards: Sequence[tuple[Figures, Answers]], asked: float) -> Figures:
    """What shards say of themselves together, that were measured with the same questions.

    Raises: RecallTooLow where together they find less than is asked for, though each alone finds enough.
    """
    figures = [shard for shard, _ in shards]
    if len(figures) == 1:
        return figures[0]
    starts = np.cumsum([0, *(shard.vectors for shard in figures)])
    found = _together([answers.found for _, answers in shards], starts[:-1])
    recall = recall_of(found, _together([answers.truth for _, answers in shards], starts[:-1]))
    largest = max(figures, key=lambda shard: shard.vectors)
    if recall < asked:
        raise RecallTooLow(
            f"{len(figures)} shards of kind '{largest.kind}' together reach recall@{DEPTH} {recall:.4f}, asked for is "
            f"{asked}; lower index.recall, or raise index.covers_per_shard"
        )
    known = {name: [shard.parameters.get(name, 0) for shard in figures] for name in largest.parameters}
    return Figures(
        kind=largest.kind,
        parameters={name: max(values) for name, values in known.items()},
        vectors=int(starts[-1]),
        width=largest.width,
        recall_at_100=round(recall, 4),
        bytes=sum(shard.bytes for shard in figures),
        latency_ms=round(sum(shard.latency_ms for shard in figures), 4),
        measured_with=largest.measured_with,
    )


def _together(pieces: Sequence[tuple[Vectors, Ids]], starts: Ids) -> Ids:
    """What shards answer as one, each with the number of its first cover."""
    told = [(scores, np.where(ids < 0, -1, ids + start)) for (scores, ids), start in zip(pieces, starts, strict=True)]
    return merge(told, DEPTH)[1]


def exact(covers: Vectors, queries: Vectors) -> Ids:
    """The truly nearest of each query, ids [Q, min(DEPTH, T)], best first."""
    return _exact(covers, queries)[1]


def _exact(covers: Vectors, queries: Vectors) -> tuple[Vectors, Ids]:
    flat = faiss.IndexFlatIP(covers.shape[1])
    pieces = [(np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64))]
    for start in range(0, len(covers), 1_000_000):  # so that no second copy of the whole is made
        flat.reset()
        flat.add(np.ascontiguousarray(covers[start : start + 1_000_000]))
        scores, found = flat.search(queries, min(DEPTH, flat.ntotal))
        pieces.append((scores, found + start))
    return merge(pieces, DEPTH)


def _found(index: faiss.Index, covers: Vectors, queries: Vectors) -> tuple[Vectors, Ids]:
    """What the index finds, with true cosines."""
    found = search(index, queries, min(DEPTH, index.ntotal))[1]
    return cosines(queries, covers, found), found


def recall_of(found: Ids, truth: Ids) -> float:
    """Share of `truth` [Q, K] that stands in the same row of `found`."""
    return float(np.mean([np.isin(wanted, got).mean() for got, wanted in zip(found, truth, strict=True)]))


def _tune(index: faiss.Index, queries: Vectors, truth: Ids, asked: float) -> float:
    """Sets the least effort that reaches the recall; the recall."""
    best = 0.0
    for effort in _efforts(index):
        set_effort(index, effort)
        best = recall_of(search(index, queries, truth.shape[1])[1], truth)
        if best >= asked:
            return best
    built = ", ".join(f"{name} {value}" for name, value in effort_of(index).items())
    kind = "ivfpq" if "k_factor" in effort_of(index) else "hnsw" if "efSearch" in effort_of(index) else "ivf"
    raise RecallTooLow(
        f"an index of kind '{kind}' over {index.ntotal:,} vectors reaches recall@{DEPTH} {best:.4f} with all its "
        f"effort ({built}), asked for is {asked}; lower index.recall, or raise index.max_bytes for a larger kind"
    )


def _efforts(index: faiss.Index) -> Iterator[dict[str, int]]:
    """From little to all."""
    known = effort_of(index)
    most = min(8192, index.ntotal) if "efSearch" in known else cells_in(index).nlist
    name, least = ("efSearch", DEPTH) if "efSearch" in known else ("nprobe", 1)
    steps = max(1, math.ceil(4 * math.log2(max(1, most / least))))  # four steps to the double
    values = sorted({min(most, round(least * 2 ** (step / 4))) for step in range(steps + 1)} | {most})
    for place, value in enumerate(values):
        yield {name: value} | ({"k_factor": min(64, 4 + place)} if "k_factor" in known else {})
    if "k_factor" in known:
        yield {name: most, "k_factor": 64}


def questions_of(covers: Vectors, songs: Vectors) -> Questions:
    """Up to QUERIES of these songs [S, D]; where they are too few, of the covers [T, D], disturbed."""
    rng = np.random.default_rng(SEED)
    few = min(QUERIES, len(covers)) > len(songs)
    source = covers if few else songs
    chosen = source[np.sort(rng.choice(len(source), min(QUERIES, len(source)), replace=False))]
    if not few:
        return Questions(np.ascontiguousarray(chosen), f"{len(chosen)} songs of the catalogue")
    noise = rng.standard_normal(chosen.shape).astype(np.float32) * (_NOISE / math.sqrt(chosen.shape[1]))
    disturbed = chosen + noise
    disturbed /= np.linalg.norm(disturbed, axis=1, keepdims=True)
    told = f"{len(chosen)} covers of the catalogue, disturbed by {_NOISE} of a length"
    return Questions(np.ascontiguousarray(disturbed), told)


def _made_with(index: faiss.Index, width: int) -> dict[str, int]:
    known = effort_of(index)
    if "efSearch" in known:
        return {"M": LINKS, "efConstruction": CONSTRUCTION}
    if "nprobe" in known:
        codes = {"m": subquantizers_of(width)} if "k_factor" in known else {}
        return {"nlist": int(cells_in(index).nlist)} | codes
    return {}


def _latency_ms(index: faiss.Index, queries: Vectors) -> float:
    times = []
    with one_thread():
        for row in range(min(TIMED, len(queries)) if index.ntotal else 0):
            began = time.perf_counter()
            search(index, queries[row : row + 1], min(DEPTH, index.ntotal))
            times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000 if times else 0.0
