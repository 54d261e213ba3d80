"""An index bundle: what it states, that it is searched as before it was saved, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import BundleCorrupt, RecallTooLow
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_for, build_tuned, eval_queries_of, exact, merge_shard_stats, recall_of
from gatefold.index.vectors import KINDS, IndexKind, kind_of
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.storage.models.indexes import (
    load_index,
    publish_index,
    publish_shards,
    shards_of,
    stats_of,
    store_shard,
)
from tests.factories import indexed_tracks, unit_vectors

TRACKS = indexed_tracks(unit_vectors(400, 8), without_cover=(3, 70))
QUERIES = unit_vectors(5, 8, seed=1)


def published(folder: Path, kind: IndexKind) -> tuple[Bundle, CoverIndex]:
    built = build_tuned(*unit_columns(TRACKS), IndexSettings(kind=kind, recall=0.8))
    index = CoverIndex(TRACKS, "encoder", built.vectors)
    return publish_index((folder / kind).as_uri(), index, TRACKS, built.stats, version="i1", lineage={}), index


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_searched_as_before_and_says_what_it_is(tmp_path: Path, kind: IndexKind) -> None:
    bundle, index = published(tmp_path, kind)
    loaded = load_index(bundle.uri)
    scores, rows = loaded.nearest(QUERIES, 30)
    expected_scores, expected_rows = index.nearest(QUERIES, 30)
    assert np.array_equal(scores, expected_scores)
    assert np.array_equal(rows, expected_rows)
    stats = stats_of(open_bundle(bundle.uri, "index"))
    assert (stats.kind, stats.vectors, stats.width) == (kind_of(loaded.shards[0]), 398, 8)
    assert stats.bytes == bundle.files["covers.faiss"].size_bytes
    assert stats.recall_at_100 >= 0.8
    assert stats.latency_ms > 0


@pytest.mark.parametrize("kind", KINDS)
def test_altered_and_shortened_vectors_are_refused(tmp_path: Path, kind: IndexKind) -> None:
    bundle, _ = published(tmp_path, kind)
    path = Path(bundle.uri_of("covers.faiss").removeprefix("file://"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(BundleCorrupt, match=r"covers\.faiss' has .* bytes instead of"):
        load_index(bundle.uri)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleCorrupt, match=r"covers\.faiss' was altered"):
        load_index(bundle.uri)


def test_a_bundle_without_figures_is_to_be_built_anew(tmp_path: Path) -> None:
    bundle, _ = published(tmp_path, "flat")
    old = copied(bundle, tmp_path / "old", {"encoder_fingerprint": "encoder", "covers": 398, "tracks": 400})
    with pytest.raises(BundleCorrupt, match="does not state its kind and recall; build it anew"):
        load_index(old.uri)


def test_a_bundle_of_another_kind_than_it_says_is_refused(tmp_path: Path) -> None:
    flat, _ = published(tmp_path, "flat")
    graph, _ = published(tmp_path, "hnsw")
    liar = copied(flat, tmp_path / "liar", graph.details)
    with pytest.raises(BundleCorrupt, match="is of kind 'flat' and says 'hnsw'"):
        load_index(liar.uri)


def sharded(folder: Path, kind: IndexKind, recall: float = 0.8) -> Bundle:
    """Three shards, the second of which has no cover."""
    settings, uri = IndexSettings(kind=kind, recall=recall), (folder / "shards").as_uri()
    tracks = indexed_tracks(unit_vectors(600, 8), without_cover=range(290, 310))
    eval_queries = eval_queries_of(*unit_columns(tracks))
    parts = [tracks.slice(0, 290), tracks.slice(290, 20), tracks.slice(310)]
    built = [build_for(unit_columns(part)[0], eval_queries, settings) for part in parts]
    stored = [
        store_shard(uri, number, 3, first, part, made)
        for number, (first, part, made) in enumerate(zip(("", "s290", "s310"), parts, built, strict=True))
    ]
    stats = merge_shard_stats([(made.stats, made.results) for made in built], settings.recall)
    return publish_shards(uri, stored, stats, encoder_fingerprint="encoder", version="i1", lineage={})


@pytest.mark.parametrize("kind", KINDS)
def test_shards_are_one_index_and_each_is_an_index_in_itself(tmp_path: Path, kind: IndexKind) -> None:
    bundle = sharded(tmp_path, kind)
    whole, shards = load_index(bundle.uri), shards_of(bundle)
    assert [(shard.covers, shard.tracks) for shard in shards] == [(290, 290), (0, 20), (290, 290)]
    assert [load_index(bundle.uri, number).ntotal for number in range(3)] == [290, 0, 290]
    assert whole.get("s295").cover_embedding is None
    truth = exact(unit_columns(indexed_tracks(unit_vectors(600, 8), without_cover=range(290, 310)))[0], QUERIES)
    assert recall_of(whole.nearest(QUERIES, 100)[1], truth) >= (1 if kind == "flat" else 0.8)
    stats = stats_of(bundle)
    assert (stats.kind, stats.vectors, stats.recall_at_100 >= 0.8) == (kind, 580, True)
    assert stats.bytes == sum(entry.size_bytes for name, entry in bundle.files.items() if name.endswith(".faiss"))
    assert stats.latency_ms == pytest.approx(sum(shard.stats.latency_ms for shard in shards), abs=1e-3)


def test_what_shards_measure_together_is_what_the_whole_would_be_measured(tmp_path: Path) -> None:
    bundle = sharded(tmp_path, "ivf")
    tracks = indexed_tracks(unit_vectors(600, 8), without_cover=range(290, 310))
    covers, songs = unit_columns(tracks)
    eval_queries = eval_queries_of(covers, songs).queries
    found = load_index(bundle.uri).nearest(eval_queries, 100)[1]
    assert stats_of(bundle).recall_at_100 == pytest.approx(recall_of(found, exact(covers, eval_queries)), abs=1e-3)


def test_shards_that_find_too_little_together_are_no_index() -> None:
    built = build_tuned(*unit_columns(TRACKS), IndexSettings(kind="ivf", recall=0.5))
    shards = [(built.stats, built.results)] * 2
    assert merge_shard_stats(shards, built.stats.recall_at_100 - 0.01).vectors == 2 * 398
    with pytest.raises(RecallTooLow, match=r"2 shards of kind 'ivf' together reach recall@100 0\.\d+, asked for is 1"):
        merge_shard_stats(shards, 1)


def test_a_bundle_whose_shards_are_not_listed_right_is_refused(tmp_path: Path) -> None:
    bundle = sharded(tmp_path, "flat")
    assert isinstance(bundle.details, dict)
    liar = copied(bundle, tmp_path / "liar", bundle.details | {"shards": [{"folder": "shard-000/"}]})
    with pytest.raises(BundleCorrupt, match="does not say what shards it has"):
        load_index(liar.uri)


def copied(bundle: Bundle, folder: Path, details: object) -> Bundle:
    """The same files that say something else of themselves."""
    assert isinstance(details, dict)
    files = {name: bundle.read(name) for name in bundle.files}
    return publish(folder.as_uri(), files, kind="index", version="i1", lineage={}, details=details)
