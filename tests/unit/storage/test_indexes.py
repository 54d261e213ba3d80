"""An index bundle: what it states, that it is searched as before it was saved, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import BundleCorrupt
from gatefold.retrieval import CoverIndex, unit_columns
from gatefold.storage.bundles import Bundle, open_bundle, publish
from gatefold.storage.indexes import figures_of, load_index, publish_index
from gatefold.tuning import build_tuned
from gatefold.vectors import KINDS, Kind, kind_of
from tests.factories import indexed_tracks, unit_vectors

TRACKS = indexed_tracks(unit_vectors(400, 8), without_cover=(3, 70))
QUERIES = unit_vectors(5, 8, seed=1)


def published(folder: Path, kind: Kind) -> tuple[Bundle, CoverIndex]:
    built = build_tuned(*unit_columns(TRACKS), IndexSettings(kind=kind, recall=0.8))
    index = CoverIndex(TRACKS, "ears", built.vectors)
    return publish_index((folder / kind).as_uri(), index, TRACKS, built.figures, version="i1", lineage={}), index


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_searched_as_before_and_says_what_it_is(tmp_path: Path, kind: Kind) -> None:
    bundle, index = published(tmp_path, kind)
    loaded = load_index(bundle.uri)
    for given, expected in zip(loaded.nearest(QUERIES, 30), index.nearest(QUERIES, 30), strict=True):
        assert np.array_equal(given, expected)
    figures = figures_of(open_bundle(bundle.uri, "index"))
    assert (figures.kind, figures.vectors, figures.width) == (kind_of(loaded.vectors), 398, 8)
    assert figures.bytes == bundle.files["covers.faiss"].size_bytes
    assert figures.recall_at_100 >= 0.8
    assert figures.latency_ms > 0


@pytest.mark.parametrize("kind", KINDS)
def test_altered_and_shortened_vectors_are_refused(tmp_path: Path, kind: Kind) -> None:
    bundle, _ = published(tmp_path, kind)
    path = tmp_path / kind / "covers.faiss"
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(BundleCorrupt, match=r"covers\.faiss' has .* bytes instead of"):
        load_index(bundle.uri)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleCorrupt, match=r"covers\.faiss' was altered"):
        load_index(bundle.uri)


def test_a_bundle_without_figures_is_to_be_built_anew(tmp_path: Path) -> None:
    bundle, _ = published(tmp_path, "flat")
    old = copied(bundle, tmp_path / "old", {"encoder_fingerprint": "ears", "covers": 398, "tracks": 400})
    with pytest.raises(BundleCorrupt, match="does not state its kind and recall; build it anew"):
        load_index(old.uri)


def test_a_bundle_of_another_kind_than_it_says_is_refused(tmp_path: Path) -> None:
    flat, _ = published(tmp_path, "flat")
    graph, _ = published(tmp_path, "hnsw")
    liar = copied(flat, tmp_path / "liar", graph.details)
    with pytest.raises(BundleCorrupt, match="is of kind 'flat' and says 'hnsw'"):
        load_index(liar.uri)


def copied(bundle: Bundle, folder: Path, details: object) -> Bundle:
    """The same files that say something else of themselves."""
    assert isinstance(details, dict)
    files = {name: bundle.read(name) for name in bundle.files}
    return publish(folder.as_uri(), files, kind="index", version="i1", lineage={}, details=details)
