"""How fast covers are found: our index against plain FAISS of the same index, hnswlib and LanceDB, on one thread; then
through HTTP, by benchmarks/searching.py.

The vectors are synthetic: unit vectors around directions drawn at random, the queries drawn alike and in no index. The
ways take turns; the figures are medians over the turns, of the rates and of their ratios to plain FAISS in the same
turn, since the machine's own speed changes between turns; recall is that of the answers timed. Ours is timed twice: as
far as numbers of covers, which is all that the others give, and with the metadata of each match. hnswlib and LanceDB
have the cheapest search parameters that reach the recall asked of ours. Writes results/retrieval.md beside this file.
`make bench-retrieval`.
"""

import os

os.environ.setdefault("LANCE_CPU_THREADS", "1")  # read when it is imported

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from statistics import median

import faiss
import hnswlib
import lancedb
import numpy as np
import pyarrow as pa
from rich.console import Console

from benchmarks.searching import served
from gatefold.config import EncoderSettings, IndexSettings
from gatefold.index.retrieval import CoverIndex
from gatefold.index.tuning import DEPTH, TunedIndex, build_tuned, exact, recall_of
from gatefold.index.vectors import CONSTRUCTION, LINKS, Ids, Vectors, nlist_for

RESULTS = Path(__file__).parent / "results" / "retrieval.md"
WIDTH = EncoderSettings().embed_dim
CLUSTERS, SPREAD = 1_000, 0.7
BATCH = 32
TURNS = 15
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
    """Tracks in the order of their ids, so that the number of a cover is that in its song_id."""
    count = len(covers)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(covers.ravel()), WIDTH)
    return pa.table(
        {
            "song_id": [f"song-{row:09}" for row in range(count)],
            "title": [f"title {row}" for row in range(count)],
            "artist": [f"artist {row // 10}" for row in range(count)],
            "album": pa.nulls(count, pa.string()),
            "genre": [f"genre {row % 18}" for row in range(count)],
            "cover_uri": [f"file:///{row}.png" for row in range(count)],
            "song_embedding": lists,
            "cover_embedding": lists,
        }
    )


def build_hnswlib(covers: Vectors) -> hnswlib.Index:
    """With the links of ours."""
    graph = hnswlib.Index(space="ip", dim=WIDTH)
    graph.init_index(len(covers), ef_construction=CONSTRUCTION, M=LINKS, random_seed=0)
    graph.add_items(covers, num_threads=1)
    return graph


def by_hnswlib(graph: hnswlib.Index, queries: Vectors, truth: Ids, recall: float) -> tuple[str, Way]:
    def way(asked: Vectors) -> Ids:
        found: Ids = graph.knn_query(asked, DEPTH, num_threads=1)[0].astype(np.int64)
        return found

    for step in range(33):
        ef = round(DEPTH * 2 ** (step / 4))
        graph.set_ef(ef)
        if recall_of(way(queries), truth) >= recall:
            break
    return f"hnswlib, ef {ef}", way


def build_lancedb(covers: Vectors, folder: str) -> lancedb.table.Table:
    """As many partitions as ours would have, whole vectors in them."""
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(covers.ravel()), WIDTH)
    rows = pa.table({"number": np.arange(len(covers)), "vector": vectors})
    table = lancedb.connect(folder).create_table("covers", rows)
    table.create_index(metric="dot", index_type="IVF_FLAT", num_partitions=nlist_for(len(covers)))
    return table


def by_lancedb(table: lancedb.table.Table, queries: Vectors, truth: Ids, recall: float) -> tuple[str, Way]:
    def one(query: Vectors) -> Ids:
        asked = table.search(query).distance_type("dot").nprobes(nprobes).limit(DEPTH).select(["number", "_distance"])
        numbers: Ids = asked.to_arrow()["number"].to_numpy()
        return np.pad(numbers, (0, DEPTH - len(numbers)), constant_values=-1)  # few partitions may hold fewer

    def way(asked: Vectors) -> Ids:
        return np.stack([one(query) for query in asked])

    for step in range(33):
        nprobes = round(2 ** (step / 2))
        if recall_of(way(queries), truth) >= recall:
            break
    return f"LanceDB, IVF_FLAT, nprobes {nprobes}", way


def ours(built: TunedIndex, table: pa.Table) -> dict[str, Way]:
    index = CoverIndex(table, "bench", built.vectors)

    def plain(asked: Vectors) -> Ids:
        found: Ids = built.vectors.search(asked, DEPTH)[1]
        return found

    def named(asked: Vectors) -> Ids:
        hits = index.search_columns(asked, DEPTH, encoder_fingerprint="bench")
        return np.array([[int(str(song_id).split("-")[1]) for song_id in hit.tracks["song_id"]] for hit in hits])

    return {
        "plain FAISS": plain,
        "ours": lambda asked: index.nearest(asked, DEPTH)[1],
        "ours, with metadata": named,
    }


def rates(ways: dict[str, Way], queries: Vectors, together: int) -> tuple[dict[str, list[float]], dict[str, Ids]]:
    """Queries a second of each way in each turn, and what it found."""
    measured: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    for _ in range(TURNS):
        for name, way in ways.items():
            began = time.perf_counter()
            pieces = [way(queries[start : start + together]) for start in range(0, len(queries), together)]
            measured[name].append(len(queries) / (time.perf_counter() - began))
            found[name] = np.concatenate(pieces)
    return measured, found


def bare(ways: dict[str, Way], queries: Vectors, truth: Ids) -> list[str]:
    """The table of the ways in one process."""
    faiss.omp_set_num_threads(1)
    single, found = rates(ways, queries, 1)
    batched, _ = rates(ways, queries, BATCH)
    lines = [
        f"| way | recall@{DEPTH} | queries/s, single | / plain FAISS | queries/s, {BATCH} at once | / plain FAISS |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name in ways:
        cells = [f"{recall_of(found[name], truth):.4f}"]
        for rate in (single, batched):
            ratio = median(own / plain for own, plain in zip(rate[name], rate["plain FAISS"], strict=True))
            cells += [f"{median(rate[name]):,.0f}", f"{ratio:.2f}"]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def compared(covers: Vectors, queries: Vectors, settings: IndexSettings) -> tuple[TunedIndex, list[str]]:
    """Our index, and the table; the others are built at the same time, and gone when it returns."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as pool:
        graph, database = pool.submit(build_hnswlib, covers), pool.submit(build_lancedb, covers, folder)
        built = build_tuned(covers, clustered(1_000, 3), settings)
        say(f"ours is built after {time.perf_counter() - began:.0f} s")
        truth = exact(covers, queries)
        others = [
            by_hnswlib(graph.result(), queries, truth, settings.recall),
            by_lancedb(database.result(), queries, truth, settings.recall),
        ]
        say(f"all are built after {time.perf_counter() - began:.0f} s")
        return built, bare(ours(built, table_of(covers)) | dict(others), queries, truth)


def say(words: str) -> None:
    Console(stderr=True).print(f"{time.strftime('%H:%M:%S')} {words}", markup=False, highlight=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="vectors")
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--kind", default="auto", help="as index.kind")
    asked = parser.parse_args()
    settings = IndexSettings(kind=asked.kind)
    covers, queries = clustered(asked.count, 1), clustered(asked.queries, 2)
    built, table = compared(covers, queries, settings)
    lines = [
        f"`make bench-retrieval`, {date.today().isoformat()}, {platform.machine()}, {os.cpu_count()} cores, no GPU.",
        f"{asked.count:,} synthetic vectors of width {WIDTH} around {CLUSTERS:,} directions, seeded.",
        f"Ours states: {built.stats.model_dump_json()}",
        "",
        f"In one process, on one thread; medians of {TURNS} interleaved turns, {asked.queries:,} queries for {DEPTH}:",
        "",
        *table,
        "",
        *served(built, table_of(covers), queries, say),
    ]
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join([*lines, ""]))
    Console().print("\n".join(lines), markup=False)


if __name__ == "__main__":
    main()
