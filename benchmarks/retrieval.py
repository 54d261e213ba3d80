"""How fast covers are found: our index against plain FAISS of the same index, and against hnswlib, on one thread.

The vectors are synthetic: unit vectors around directions drawn at random, the queries drawn alike and in no index. The
ways take turns, the best turn of each counts; recall is that of the answers timed. Ours is timed twice: as far as
numbers of covers, which is all that the others give, and with the metadata of each match. Writes results/retrieval.md
beside this file. `make bench-retrieval`.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import faiss
import hnswlib
import numpy as np
import pyarrow as pa
from rich.console import Console

from gatefold.config import EncoderSettings, IndexSettings
from gatefold.retrieval import CoverIndex
from gatefold.tuning import DEPTH, Built, build_tuned, exact, recall_of
from gatefold.vectors import CONSTRUCTION, LINKS, Ids, Vectors

RESULTS = Path(__file__).parent / "results" / "retrieval.md"
WIDTH = EncoderSettings().embed_dim
CLUSTERS, SPREAD = 1_000, 0.7
BATCH = 32
TURNS = 5
Way = Callable[[Vectors], Ids]


def clustered(count: int, seed: int) -> Vectors:
    """float32 [count, WIDTH], unit length; every seed draws around the same directions."""
    centres = np.random.default_rng(0).standard_normal((CLUSTERS, WIDTH), np.float32)
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, WIDTH), np.float32)
    vectors *= SPREAD
    vectors += centres[rng.integers(0, CLUSTERS, count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def table_of(covers: Vectors) -> pa.Table:
    count = len(covers)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(covers.ravel()), WIDTH)
    return pa.table(
        {
            "song_id": [f"song {row}" for row in range(count)],
            "title": [f"title {row}" for row in range(count)],
            "artist": [f"artist {row // 10}" for row in range(count)],
            "album": pa.nulls(count, pa.string()),
            "genre": [f"genre {row % 18}" for row in range(count)],
            "cover_uri": [f"file:///{row}.png" for row in range(count)],
            "song_embedding": lists,
            "cover_embedding": lists,
        }
    )


def by_hnswlib(covers: Vectors, queries: Vectors, truth: Ids, recall: float) -> tuple[Way, str]:
    """With the links of ours, and the least effort that reaches the recall."""
    graph = hnswlib.Index(space="ip", dim=WIDTH)
    graph.init_index(len(covers), ef_construction=CONSTRUCTION, M=LINKS, random_seed=0)
    graph.add_items(covers, num_threads=-1)

    def way(asked: Vectors) -> Ids:
        return graph.knn_query(asked, DEPTH, num_threads=1)[0].astype(np.int64)

    for step in range(33):
        ef = round(DEPTH * 2 ** (step / 4))
        graph.set_ef(ef)
        if recall_of(way(queries), truth) >= recall:
            break
    return way, f"hnswlib, ef {ef}"


def ways_of(built: Built, covers: Vectors) -> dict[str, Way]:
    index = CoverIndex(table_of(covers), "bench", built.vectors)

    def plain(asked: Vectors) -> Ids:
        found: Ids = built.vectors.search(asked, DEPTH)[1]
        return found

    def named(asked: Vectors) -> Ids:
        matches = index.search(asked, DEPTH, encoder_fingerprint="bench")
        return np.array([[int(match.track.song_id.split()[1]) for match in row] for row in matches])

    return {
        "plain FAISS": plain,
        "ours": lambda asked: index.nearest(asked, DEPTH)[1],
        "ours, with metadata": named,
    }


def rates(ways: dict[str, Way], queries: Vectors, together: int) -> tuple[dict[str, float], dict[str, Ids]]:
    """Queries a second of each way, the best of the turns, and what it found."""
    best, found = dict.fromkeys(ways, 0.0), {}
    for _ in range(TURNS):
        for name, way in ways.items():
            began = time.perf_counter()
            pieces = [way(queries[start : start + together]) for start in range(0, len(queries), together)]
            best[name] = max(best[name], len(queries) / (time.perf_counter() - began))
            found[name] = np.concatenate(pieces)
    return best, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="vectors")
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--kind", default="auto", help="as index.kind")
    asked = parser.parse_args()
    settings = IndexSettings(kind=asked.kind)
    covers, queries = clustered(asked.count, 1), clustered(asked.queries, 2)
    built = build_tuned(covers, clustered(1_000, 3), settings)
    truth = exact(covers, queries)
    ways = ways_of(built, covers)
    way, name = by_hnswlib(covers, queries, truth, settings.recall)
    ways[name] = way
    faiss.omp_set_num_threads(1)
    single, found = rates(ways, queries, 1)
    batched, _ = rates(ways, queries, BATCH)
    lines = [
        f"`make bench-retrieval`, {date.today().isoformat()}, {platform.machine()}, one thread, no GPU; the best of "
        f"{TURNS} interleaved turns of {asked.queries:,} queries for {DEPTH}.",
        f"{asked.count:,} synthetic vectors of width {WIDTH} around {CLUSTERS:,} directions, seeded.",
        f"Ours states: {built.figures.model_dump_json()}",
        "",
        f"| way | recall@{DEPTH} | queries/s, single | / plain FAISS | queries/s, {BATCH} at once | / plain FAISS |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ways:
        one, many = (rate[name] / rate["plain FAISS"] for rate in (single, batched))
        recall = recall_of(found[name], truth)
        lines.append(f"| {name} | {recall:.4f} | {single[name]:,.0f} | {one:.2f} | {batched[name]:,.0f} | {many:.2f} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*lines, ""]))
    Console().print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
