"""Every kind of index against exact search: which is chosen, that it can be repeated, filtered, saved and shared."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import BundleCorrupt, InvalidSettings, RecallTooLow
from gatefold.index.interface import Filters, MatchColumns
from gatefold.index.retrieval import CoverIndex
from gatefold.index.tuning import TunedIndex, build_tuned, exact, recall_of
from gatefold.index.vectors import (
    KINDS,
    IndexKind,
    Vectors,
    build,
    bytes_of,
    choose,
    cosines,
    open_mapped,
    save,
    search,
    stored,
)
from gatefold.storage.models.indexes import load_index, publish_index
from tests.factories import indexed_tracks

COUNT, WIDTH, ASKED = 1500, 16, 0.95
NO_SONGS = np.zeros((0, WIDTH), np.float32)


def clustered(count: int, seed: int) -> Vectors:
    """float32 [count, WIDTH], unit vectors around twenty directions."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((20, WIDTH))
    vectors = centres[rng.integers(0, 20, count)] + 0.6 * rng.standard_normal((count, WIDTH))
    lengths: npt.NDArray[np.float64] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / lengths).astype(np.float32)


COVERS, QUERIES = clustered(COUNT, 1), clustered(40, 2)
BUILT: dict[IndexKind, TunedIndex] = {}


@pytest.fixture(params=KINDS)
def built(request: pytest.FixtureRequest) -> TunedIndex:
    kind: IndexKind = request.param
    if kind not in BUILT:
        BUILT[kind] = build_tuned(COVERS, NO_SONGS, IndexSettings(kind=kind, recall=ASKED))
    return BUILT[kind]


@pytest.fixture
def index(built: TunedIndex, monkeypatch: pytest.MonkeyPatch) -> CoverIndex:
    monkeypatch.setattr("gatefold.index.retrieval.BRUTE_FORCE_MAX", 20)  # so that filters reach the approximate search
    return CoverIndex(indexed_tracks(COVERS), "e1", built.vectors)


def truly(queries: Vectors, k: int, allowed: np.ndarray) -> np.ndarray:
    scores = np.where(allowed, queries @ COVERS.T, -np.inf)
    return np.argsort(-scores, axis=1)[:, :k]


@pytest.mark.parametrize(
    ("count", "max_bytes", "kind"),
    [
        (800, 4_000_000_000, "flat"),
        (150_000, 4_000_000_000, "flat"),
        (1_000_000, 4_000_000_000, "hnsw"),
        (1_000_000, 600_000_000, "ivf"),
        (1_000_000, 200_000_000, "ivfpq"),
        (20_000_000, 4_000_000_000, "ivfpq"),
    ],
)
def test_the_kind_follows_from_count_and_memory(count: int, max_bytes: int, kind: IndexKind) -> None:
    assert choose(count, 128, IndexSettings(max_bytes=max_bytes)) == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_asked_for_is_taken_or_refused(kind: IndexKind) -> None:
    assert choose(1_000_000, 128, IndexSettings(kind=kind)) == kind
    with pytest.raises(InvalidSettings, match=f"kind '{kind}' over 1,000,000 vectors takes .*max_bytes is 1,000"):
        choose(1_000_000, 128, IndexSettings(kind=kind, max_bytes=1_000))


def test_it_takes_the_bytes_that_it_is_chosen_by(built: TunedIndex, tmp_path: Path) -> None:
    save(built.vectors, str(tmp_path / "covers.faiss"))
    assert built.stats.bytes == (tmp_path / "covers.faiss").stat().st_size
    assert bytes_of(built.stats.kind, COUNT, WIDTH) == pytest.approx(built.stats.bytes, rel=0.25)


def test_what_it_states_of_its_recall_is_so_for_other_queries(built: TunedIndex) -> None:
    stats = built.stats
    assert (stats.vectors, stats.width) == (COUNT, WIDTH)
    assert stats.recall_at_100 >= ASKED
    found = search(built.vectors, QUERIES, 100)[1]
    assert recall_of(found, exact(COVERS, QUERIES)) == pytest.approx(stats.recall_at_100, abs=0.04)


def test_songs_are_measured_with_where_there_are_enough() -> None:
    for songs, words in ((clustered(600, 3), "512 songs"), (NO_SONGS, "512 covers of the catalogue, disturbed")):
        assert words in build_tuned(COVERS, songs, IndexSettings(kind="ivf")).stats.measured_with


def test_an_index_below_the_recall_asked_for_is_none() -> None:
    with pytest.raises(RecallTooLow, match=r"'ivfpq' over 1,500 vectors reaches recall@100 0\.9\d+ .* asked .* 1\.0"):
        build_tuned(COVERS, NO_SONGS, IndexSettings(kind="ivfpq", recall=1.0))


def test_codes_are_not_learned_from_a_handful() -> None:
    with pytest.raises(InvalidSettings, match="at least 256 vectors; there are 100"):
        build(COVERS[:100], "ivfpq")


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_the_same_vectors_make_the_same_index(kind: IndexKind, tmp_path: Path) -> None:
    settings = IndexSettings(kind=kind, recall=ASKED)
    first, second = (tmp_path / name for name in ("first.faiss", "second.faiss"))
    for path in (first, second):
        save(build_tuned(COVERS, NO_SONGS, settings).vectors, str(path))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(("kind", "kept"), [("flat", True), ("hnsw", True), ("ivf", False), ("ivfpq", False)])
def test_what_an_index_stores_whole_is_read_where_it_lies(kind: IndexKind, kept: bool) -> None:
    index = build(COVERS[:1000], kind)
    vectors = stored(index)  # which lasts no longer than it
    assert (vectors is not None) == kept
    assert vectors is None or np.array_equal(vectors, COVERS[:1000])


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_cosines_with_vectors_in_a_mapped_file_are_the_same_bits(kind: IndexKind, tmp_path: Path) -> None:
    path = tmp_path / "index.faiss"
    save(build(COVERS[:1000], kind), str(path))
    index = open_mapped(str(path))
    vectors = stored(index)  # at whatever address, odd ones too
    assert vectors is not None
    ids = np.random.default_rng(5).integers(0, 1000, (len(QUERIES), 50))
    assert np.array_equal(cosines(QUERIES, vectors, ids), cosines(QUERIES, COVERS[:1000], ids))


@pytest.mark.parametrize("share", [0.5, 0.1, 0.02, 0.01])
def test_a_filter_leaves_k_and_those_that_an_exact_search_finds(index: CoverIndex, share: float) -> None:
    allowed = np.random.default_rng(4).random(COUNT) < share
    k = min(100, int(allowed.sum()))
    scores, found = index.nearest(QUERIES, 100, allowed)
    assert found.shape == (len(QUERIES), k)
    assert all(len(set(row)) == k for row in found.tolist())
    assert allowed[found].all()
    assert scores == pytest.approx(np.einsum("qd,qkd->qk", QUERIES, COVERS[found]), abs=1e-5)
    assert (np.diff(scores, axis=1) <= 1e-6).all()
    assert recall_of(found, truly(QUERIES, k, allowed)) >= ASKED - 0.03


def test_all_but_the_nearest_are_found_in_a_far_corner(index: CoverIndex) -> None:
    far = np.zeros(COUNT, bool)
    far[np.argsort(COVERS @ QUERIES[0])[:60]] = True  # where no search would look
    assert index.nearest(QUERIES[:1], 60, far)[1].shape == (1, 60)
    assert set(index.nearest(QUERIES[:1], 60, far)[1][0]) == set(np.flatnonzero(far))


def test_as_many_are_found_as_there_are(index: CoverIndex) -> None:
    found = index.nearest(QUERIES[:3], 5_000)[1]
    assert [len(set(row)) for row in found.tolist()] == [COUNT] * 3


def test_eight_threads_find_in_ten_thousand_queries_what_one_finds(
    built: TunedIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatefold.index.retrieval.BRUTE_FORCE_MAX", 20)
    tracks = indexed_tracks(COVERS)
    made = CoverIndex(tracks, "e1", built.vectors)
    index = load_index(publish_index(tmp_path.as_uri(), made, tracks, built.stats, version="i1", lineage={}).uri)
    jazz = Filters(where=(("genre", frozenset({"jazz"})),))
    filters = (Filters(), jazz, Filters(exclude_artists=frozenset({"artist 7"})), Filters(frozenset({"s1", "s2"})))
    queries = [(row % len(QUERIES), filters[row % 4]) for row in range(10_000)]

    def found(query: tuple[int, Filters]) -> list[MatchColumns]:
        row, kept = query
        return index.search_columns(QUERIES[row : row + 1], 20, encoder_fingerprint="e1", filters=kept)

    with ThreadPoolExecutor(8, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        together = list(pool.map(found, queries))
    alone = [found(query) for query in queries[: len(QUERIES)]]
    assert together == alone * (len(queries) // len(alone))


def test_a_mapped_index_finds_what_a_read_one_finds(built: TunedIndex, tmp_path: Path) -> None:
    path = str(tmp_path / "covers.faiss")
    save(built.vectors, path)
    answers = [search(x, QUERIES, 50)[1] for x in (open_mapped(path), faiss.read_index(path))]
    assert np.array_equal(answers[0], answers[1])
    assert np.array_equal(answers[0], search(built.vectors, QUERIES, 50)[1])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_an_index_cut_short_is_corrupt(built: TunedIndex, tmp_path: Path, share: float) -> None:
    path = tmp_path / "covers.faiss"
    save(built.vectors, str(path))
    os.truncate(path, round(path.stat().st_size * share))
    with pytest.raises(BundleCorrupt, match="build it again"):
        open_mapped(str(path))
