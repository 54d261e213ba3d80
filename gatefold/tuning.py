"""Building an index to a recall: its search effort is raised until the recall asked for is measured against exact
search, on queries the index was not made of; and what was measured is stated. Below it there is no index.

Shape legend: Q = queries measured with, T = vectors kept, D = their width.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
from pydantic import BaseModel, ConfigDict

from gatefold.config import IndexSettings
from gatefold.errors import RecallTooLow
from gatefold.vectors import (
    CONSTRUCTION,
    LINKS,
    SEED,
    Ids,
    Kind,
    Vectors,
    build,
    cells_in,
    choose,
    effort_of,
    one_thread,
    search,
    serialize,
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
    """of the build and of a search"""
    vectors: int
    width: int
    recall_at_100: float
    """share of the 100 truly nearest that a search for 100 finds"""
    bytes: int
    """of the FAISS part"""
    latency_ms: float
    """median of one query for 100, on one thread"""
    measured_with: str
    """the queries"""


@dataclass(frozen=True)
class Built:
    """An index, ready to be searched, and what it says of itself."""

    vectors: faiss.Index
    figures: Figures


def build_tuned(covers: Vectors, songs: Vectors, settings: IndexSettings) -> Built:
    """The index of covers [T, D] that reaches `settings.recall`.

    Args:
        songs: float32 [S, D], vectors of songs to measure with; where they are too few, covers are disturbed instead.

    Raises: RecallTooLow naming kind, recall reached and recall asked for; InvalidSettings.
    """
    count, width = covers.shape
    kind = choose(count, width, settings)
    index = build(covers, kind)
    queries, told = _queries(covers, songs)
    recall = 1.0
    if kind != "flat" and len(queries):
        recall = _tune(index, queries, exact(covers, queries), settings.recall)
    return Built(
        index,
        Figures(
            kind=kind,
            parameters=_made_with(index, width) | effort_of(index),
            vectors=count,
            width=width,
            recall_at_100=round(recall, 4),
            bytes=len(serialize(index)),
            latency_ms=round(_latency_ms(index, queries), 4),
            measured_with=told,
        ),
    )


def exact(covers: Vectors, queries: Vectors) -> Ids:
    """The truly nearest of each query, ids [Q, min(DEPTH, T)], best first."""
    flat = faiss.IndexFlatIP(covers.shape[1])
    pieces = []
    k = min(DEPTH, len(covers))
    for start in range(0, len(covers), 1_000_000):  # so that no second copy of the whole is made
        flat.reset()
        flat.add(np.ascontiguousarray(covers[start : start + 1_000_000]))
        scores, found = flat.search(queries, min(k, flat.ntotal))
        pieces.append((scores, found + start))
    scores, found = (np.concatenate(part, axis=1) for part in zip(*pieces, strict=True))
    nearest: Ids = np.take_along_axis(found, np.argsort(-scores, axis=1, kind="stable")[:, :k], axis=1)
    return nearest


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


def _queries(covers: Vectors, songs: Vectors) -> tuple[Vectors, str]:
    """[Q, D], and what they are."""
    rng = np.random.default_rng(SEED)
    few = min(QUERIES, len(covers)) > len(songs)
    source = covers if few else songs
    chosen = source[np.sort(rng.choice(len(source), min(QUERIES, len(source)), replace=False))]
    if not few:
        return np.ascontiguousarray(chosen), f"{len(chosen)} songs of the catalogue"
    noise = rng.standard_normal(chosen.shape).astype(np.float32) * (_NOISE / math.sqrt(chosen.shape[1]))
    disturbed = chosen + noise
    disturbed /= np.linalg.norm(disturbed, axis=1, keepdims=True)
    return np.ascontiguousarray(disturbed), f"{len(chosen)} covers of the catalogue, disturbed by {_NOISE} of a length"


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
        for row in range(min(TIMED, len(queries))):
            began = time.perf_counter()
            search(index, queries[row : row + 1], min(DEPTH, index.ntotal))
            times.append(time.perf_counter() - began)
    return float(np.median(times)) * 1000 if times else 0.0
