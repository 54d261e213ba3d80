"""Tuning of FAISS search parameters to a recall, measured against exact search on queries the index was not made of.

The parameters are raised until the recall asked for is measured; what was measured is stated. Below it there is no
index. Of shards that are built apart, the joint recall is computed.

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
    IndexKind,
    Vectors,
    build,
    choose,
    cosines,
    ivf_of,
    merge,
    one_thread,
    saved_bytes,
    search,
    search_params_of,
    set_search_params,
    subquantizers_of,
)

DEPTH = 100
"""k of the recall that is measured"""
QUERIES = 512
TIMED = 64
"""queries whose latency is taken"""
_NOISE = 0.3
"""length of what is added to a cover to make a query of it"""


class IndexStats(BaseModel):
    """Statistics of an index, as its bundle states them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: IndexKind
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
class EvalQueries:
    """Queries that indexes are measured with."""

    queries: Vectors
    """float32 [Q, D]"""
    description: str
    """what they are"""


@dataclass(frozen=True)
class SearchResults:
    """To the eval_queries: scores and ids [Q, at most DEPTH] that an index finds (-1 for none), and the true ones."""

    found: tuple[Vectors, Ids]
    truth: tuple[Vectors, Ids]


@dataclass(frozen=True)
class TunedIndex:
    """An index tuned to a recall, its statistics, and the search results that they were measured on."""

    vectors: faiss.Index
    stats: IndexStats
    results: SearchResults


def build_tuned(covers: Vectors, songs: Vectors, settings: IndexSettings) -> TunedIndex:
    """`build_for` with evaluation queries made of these covers and songs.

    Args:
        covers: float32 [T, D], unit length.
        songs: float32 [songs, D], unit length.

    Raises: as `build_for`.
    """
    return build_for(covers, eval_queries_of(covers, songs), settings)


def build_for(covers: Vectors, eval_queries: EvalQueries, settings: IndexSettings) -> TunedIndex:
    """The index of these covers that reaches `settings.recall`.

    Args:
        covers: float32 [T, D], unit length.

    Raises: RecallTooLow naming kind, recall reached and recall asked for; InvalidSettings.
    """
    (count, width), queries = covers.shape, eval_queries.queries
    kind = choose(count, width, settings)
    index = build(covers, kind)
    found = truth = _exact(covers, queries)
    recall = 1.0
    if kind != "flat" and len(queries):
        recall = _tune(index, queries, truth[1], settings.recall)
        found = _found(index, covers, queries)
    stats = IndexStats(
        kind=kind,
        parameters=_made_with(index, width) | search_params_of(index),
        vectors=count,
        width=width,
        recall_at_100=round(recall, 4),
        bytes=saved_bytes(index),
        latency_ms=round(_latency_ms(index, queries), 4),
        measured_with=eval_queries.description,
    )
    return TunedIndex(index, stats, SearchResults(found, truth))


def merge_shard_stats(shards: Sequence[tuple[IndexStats, SearchResults]], asked: float) -> IndexStats:
    """What shards say of themselves together, that were measured with the same eval_queries.

    Raises: RecallTooLow where together they find less than is asked for, though each alone finds enough.
    """
    stats = [shard for shard, _ in shards]
    if len(stats) == 1:
        return stats[0]
    starts = np.cumsum([0, *(shard.vectors for shard in stats)])
    found = _together([results.found for _, results in shards], starts[:-1])
    recall = recall_of(found, _together([results.truth for _, results in shards], starts[:-1]))
    largest = max(stats, key=lambda shard: shard.vectors)
    if recall < asked:
        raise RecallTooLow(
            f"{len(stats)} shards of kind '{largest.kind}' together reach recall@{DEPTH} {recall:.4f}, asked for is "
            f"{asked}; lower index.recall, or raise index.covers_per_shard"
        )
    known = {name: [shard.parameters.get(name, 0) for shard in stats] for name in largest.parameters}
    return IndexStats(
        kind=largest.kind,
        parameters={name: max(values) for name, values in known.items()},
        vectors=int(starts[-1]),
        width=largest.width,
        recall_at_100=round(recall, 4),
        bytes=sum(shard.bytes for shard in stats),
        latency_ms=round(sum(shard.latency_ms for shard in stats), 4),
        measured_with=largest.measured_with,
    )


def _together(pieces: Sequence[tuple[Vectors, Ids]], starts: Ids) -> Ids:
    """The shards' results merged; `starts` has the number of each one's first cover."""
    numbered = [
        (scores, np.where(ids < 0, -1, ids + start)) for (scores, ids), start in zip(pieces, starts, strict=True)
    ]
    return merge(numbered, DEPTH)[1]


def exact(covers: Vectors, queries: Vectors) -> Ids:
    """The truly nearest covers of each query, ids int64 [Q, min(DEPTH, T)], best first.

    Args:
        covers: float32 [T, D].
        queries: float32 [Q, D].
    """
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
    """Share of the truly nearest that were found, 0 to 1.

    Args:
        found: ids int64 [Q, any number].
        truth: ids int64 [Q, K].
    """
    return float(np.mean([np.isin(wanted, got).mean() for got, wanted in zip(found, truth, strict=True)]))


def _tune(index: faiss.Index, queries: Vectors, truth: Ids, asked: float) -> float:
    """Sets the cheapest search parameters that reach the recall; the recall."""
    best = 0.0
    for params in _search_params_to_try(index):
        set_search_params(index, params)
        best = recall_of(search(index, queries, truth.shape[1])[1], truth)
        if best >= asked:
            return best
    built = ", ".join(f"{name} {value}" for name, value in search_params_of(index).items())
    kind = (
        "ivfpq" if "k_factor" in search_params_of(index) else "hnsw" if "efSearch" in search_params_of(index) else "ivf"
    )
    raise RecallTooLow(
        f"an index of kind '{kind}' over {index.ntotal:,} vectors reaches recall@{DEPTH} {best:.4f} with all its "
        f"search effort ({built}), asked for is {asked}; lower index.recall, or raise index.max_bytes for a larger kind"
    )


def _search_params_to_try(index: faiss.Index) -> Iterator[dict[str, int]]:
    """From the cheapest to the most thorough."""
    known = search_params_of(index)
    most = min(8192, index.ntotal) if "efSearch" in known else ivf_of(index).nlist
    name, least = ("efSearch", DEPTH) if "efSearch" in known else ("nprobe", 1)
    steps = max(1, math.ceil(4 * math.log2(max(1, most / least))))  # four steps to the double
    values = sorted({min(most, round(least * 2 ** (step / 4))) for step in range(steps + 1)} | {most})
    for place, value in enumerate(values):
        yield {name: value} | ({"k_factor": min(64, 4 + place)} if "k_factor" in known else {})
    if "k_factor" in known:
        yield {name: most, "k_factor": 64}


def eval_queries_of(covers: Vectors, songs: Vectors) -> EvalQueries:
    """Up to QUERIES of these songs; where they are too few, of the covers, with noise.

    Args:
        covers: float32 [T, D], unit length.
        songs: float32 [songs, D], unit length.
    """
    rng = np.random.default_rng(SEED)
    few = min(QUERIES, len(covers)) > len(songs)
    source = covers if few else songs
    chosen = source[np.sort(rng.choice(len(source), min(QUERIES, len(source)), replace=False))]
    if not few:
        return EvalQueries(np.ascontiguousarray(chosen), f"{len(chosen)} songs of the catalogue")
    noise = rng.standard_normal(chosen.shape).astype(np.float32) * (_NOISE / math.sqrt(chosen.shape[1]))
    disturbed = chosen + noise
    disturbed /= np.linalg.norm(disturbed, axis=1, keepdims=True)
    description = f"{len(chosen)} covers of the catalogue, disturbed by {_NOISE} of a length"
    return EvalQueries(np.ascontiguousarray(disturbed), description)


def _made_with(index: faiss.Index, width: int) -> dict[str, int]:
    known = search_params_of(index)
    if "efSearch" in known:
        return {"M": LINKS, "efConstruction": CONSTRUCTION}
    if "nprobe" in known:
        codes = {"m": subquantizers_of(width)} if "k_factor" in known else {}
        return {"nlist": int(ivf_of(index).nlist)} | codes
    return {}


def _latency_ms(index: faiss.Index, queries: Vectors) -> float:
    times = []
    with one_thread():
        for row in range(min(TIMED, len(queries)) if index.ntotal else 0):
            began = time.perf_counter()
            search(index, queries[row : row + 1], min(DEPTH, index.ntotal))
            times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000 if times else 0.0
