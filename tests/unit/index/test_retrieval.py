"""The index against a sort, its filters, and what it refuses."""

import os
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pytest

from gatefold.errors import BundleCorrupt, InputError, UnknownTrack, WrongModel
from gatefold.index.interface import ALL, Filters
from gatefold.index.retrieval import CoverIndex
from gatefold.index.vectors import Ids, Vectors, build, cosines, open_mapped, save
from gatefold.records import Match, Track
from tests.factories import indexed_tracks, unit_vectors

COUNT, WIDTH = 60, 8
COVERS, SONGS = unit_vectors(COUNT, WIDTH), unit_vectors(COUNT, WIDTH, seed=1)
BARE = (4, 17, 59)
"""Rows without a cover."""
TWINS = np.repeat(unit_vectors(20, WIDTH, seed=2), 12, axis=0)[np.random.default_rng(3).permutation(240)]
"""Covers of twenty albums, twelve times each."""


@pytest.fixture(scope="module")
def index() -> CoverIndex:
    return CoverIndex(indexed_tracks(COVERS, without_cover=BARE, songs=SONGS), "encoder-1")


JAZZ = Filters(where=(("genre", frozenset({"jazz"})),))


def search(index: CoverIndex, query: Vectors, k: int, filters: Filters = ALL) -> list[Match]:
    return index.search(query[None], k, encoder_fingerprint="encoder-1", filters=filters)[0]


def without(*song_ids: str, artists: Collection[str] = ()) -> Filters:
    return Filters(frozenset(song_ids), frozenset(artists))


def ids(matches: list[Match]) -> list[str]:
    return [match.track.song_id for match in matches]


def by_sort(query: Vectors, allowed: list[int]) -> list[str]:
    scores = {row: float(COVERS[row] @ query) for row in allowed if row not in BARE}
    return [f"s{row}" for row in sorted(scores, key=lambda row: -scores[row])]


@pytest.mark.parametrize("k", [1, 10, 57])
def test_matches_are_those_of_a_sort(index: CoverIndex, k: int) -> None:
    answers = index.search(SONGS[:5], k, encoder_fingerprint="encoder-1")
    for query, matches in zip(SONGS[:5], answers, strict=True):
        assert ids(matches) == by_sort(query, list(range(COUNT)))[:k]
        assert [match.rank for match in matches] == list(range(1, k + 1))
        cosines = [float(COVERS[int(match.track.song_id[1:])] @ query) for match in matches]
        assert [match.score for match in matches] == pytest.approx(cosines, abs=1e-6)


def test_a_match_carries_what_is_known_of_its_track(index: CoverIndex) -> None:
    nearest = search(index, COVERS[7], 1)[0].track
    assert nearest == Track(song_id="s7", title="title 7", artist="artist 2", album=None, genre="jazz")


def test_a_score_is_never_above_one(index: CoverIndex) -> None:
    assert max(search(index, cover, 1)[0].score for cover in COVERS) <= 1


def test_there_are_no_more_matches_than_covers(index: CoverIndex) -> None:
    assert (index.ntotal, index.embed_dim) == (57, WIDTH)
    assert len(search(index, SONGS[0], 1_000)) == 57


def test_exclusions_leave_k_where_k_are_left(index: CoverIndex) -> None:
    nearest = by_sort(SONGS[0], list(range(COUNT)))
    assert ids(search(index, SONGS[0], 10, without(*nearest[:5]))) == nearest[5:15]
    artists = [f"artist {number}" for number in range(10)]
    assert ids(search(index, SONGS[0], 10, without(artists=artists))) == by_sort(SONGS[0], list(range(30, COUNT)))[:10]


def test_genres_are_kept_and_filters_add_up(index: CoverIndex) -> None:
    jazz = list(range(1, COUNT, 2))
    assert ids(search(index, SONGS[0], 100, JAZZ)) == by_sort(SONGS[0], jazz)
    both = search(index, SONGS[0], 5, replace(without("s1", "s3", artists=["artist 3"]), where=JAZZ.where))
    assert ids(both) == by_sort(SONGS[0], [row for row in jazz if row not in (1, 3, 9, 11)])[:5]


def test_any_column_of_text_filters_and_one_that_is_not_there_is_named() -> None:
    years = pa.array([None if row == 8 else str(1990 + row % 4) for row in range(COUNT)])
    index = CoverIndex(indexed_tracks(COVERS, songs=SONGS).append_column("year", years), "encoder-1")
    kept = search(index, SONGS[0], 100, Filters(where=(("year", frozenset({"1990", "1991", "2030"})), *JAZZ.where)))
    assert sorted(ids(kept)) == sorted(f"s{row}" for row in range(1, COUNT, 4))
    assert len(search(index, SONGS[0], 100, Filters(where=(("year", frozenset({"1990"})),)))) == COUNT // 4 - 1
    with pytest.raises(InputError, match="where 'decade': this index can be filtered by album, artist, genre, year"):
        search(index, SONGS[0], 5, Filters(where=(("decade", frozenset({"90s"})),)))


def test_filters_that_leave_nothing_find_nothing(index: CoverIndex) -> None:
    assert search(index, SONGS[0], 5, Filters(where=(("genre", frozenset({"polka"})),))) == []
    assert ids(search(index, SONGS[0], 2, without("nobody"))) == ids(search(index, SONGS[0], 2))


@pytest.mark.parametrize("cuts", [(), (120,), (70, 71), (3, 100, 200)])
@pytest.mark.parametrize("together", [1, 7, 40])
def test_shards_find_what_a_sort_of_the_whole_finds_bit_for_bit(cuts: tuple[int, ...], together: int) -> None:
    index = CoverIndex(indexed_tracks(TWINS), "encoder-1", *(build(part, "flat") for part in np.split(TWINS, cuts)))
    queries = np.concatenate([unit_vectors(together - 1, WIDTH, seed=4), TWINS[:1]])
    for allowed in (None, np.arange(240) % 3 > 0, np.arange(240) == 71):
        for k in (1, 30, 240):
            scores, found = index.nearest(queries, k, allowed)
            for row, query in enumerate(queries):
                cosine_of = cosines(query[None], TWINS, np.arange(240)[None])[0]
                among = np.arange(240) if allowed is None else np.flatnonzero(allowed)
                best = among[np.lexsort((among, -cosine_of[among]))[:k]]
                assert np.array_equal(found[row], best)
                assert np.array_equal(scores[row], cosine_of[best])


def test_hits_in_columns_are_the_matches(index: CoverIndex) -> None:
    hits = index.search_columns(SONGS[:3], 10, encoder_fingerprint="encoder-1", filters=JAZZ)
    assert [hit.matches() for hit in hits] == index.search(SONGS[:3], 10, encoder_fingerprint="encoder-1", filters=JAZZ)


class Gpu:
    """Stands in for faiss-gpu: a copy that counts its searches."""

    def __init__(self, index: faiss.Index) -> None:
        self._index = index
        self.searches = 0

    def search(self, queries: Vectors, k: int) -> tuple[Vectors, Ids]:
        self.searches += 1
        scores, found = self._index.search(queries, k)
        return scores + np.float32(1e-6), found


def test_a_gpu_searches_where_it_was_granted_and_there_is_no_filter(
    index: CoverIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies: list[Gpu] = []
    numbers: list[int] = []

    def copy(_resources: object, number: int, original: faiss.Index) -> Gpu:
        copies.append(Gpu(original))
        numbers.append(number)
        return copies[0]

    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(faiss, "StandardGpuResources", object, raising=False)
    monkeypatch.setattr(faiss, "index_cpu_to_gpu", copy, raising=False)
    tracks = indexed_tracks(COVERS, without_cover=BARE, songs=SONGS)
    assert search(CoverIndex(tracks, "encoder-1"), SONGS[2], 10) == search(index, SONGS[2], 10)
    assert not copies, "a GPU that is there and was not granted is left alone"
    copied = CoverIndex(tracks, "encoder-1", device="cuda:1")
    assert numbers == [1]
    assert search(copied, SONGS[2], 10) == search(index, SONGS[2], 10)
    assert copies[0].searches == 1
    assert search(copied, SONGS[2], 10, JAZZ) == search(index, SONGS[2], 10, JAZZ)
    assert copies[0].searches == 1


def test_an_unknown_artist_or_genre_is_excluded_by_no_exclusion_and_kept_by_no_genre() -> None:
    tracks = indexed_tracks(COVERS[:4])
    for column in ("artist", "genre"):
        tracks = tracks.set_column(tracks.schema.get_field_index(column), column, pa.nulls(4, pa.string()))
    index = CoverIndex(tracks, "encoder-1")
    assert len(search(index, SONGS[0], 4, without(artists=["artist 0"]))) == 4
    assert search(index, SONGS[0], 4, JAZZ) == []


def test_a_table_in_chunks_gives_the_same_answers(index: CoverIndex) -> None:
    tracks = indexed_tracks(COVERS, without_cover=BARE, songs=SONGS)
    chunked = CoverIndex(pa.concat_tables([tracks.slice(0, 5), tracks.slice(5, 20), tracks.slice(25)]), "encoder-1")
    filters = without(artists=["artist 1", "artist 9"])
    assert search(chunked, SONGS[3], 20, filters) == search(index, SONGS[3], 20, filters)
    assert np.array_equal(chunked.cover_embeddings(["s50", "s0"]), COVERS[[50, 0]])


def test_another_encoders_vectors_are_refused_with_both_names(index: CoverIndex) -> None:
    with pytest.raises(WrongModel, match=r"'encoder-2'.*'encoder-1'"):
        index.search(SONGS[:1], 5, encoder_fingerprint="encoder-2")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (np.zeros((1, 9), np.float32), r"shape \(9,\), this index takes \[8\]"),
        (np.zeros(8, np.float32), "this index takes"),
        (np.full((1, 8), np.nan, np.float32), "no finite numbers"),
        (np.full((1, 8), np.inf, np.float32), "no finite numbers"),
    ],
)
def test_what_is_no_embedding_is_refused(index: CoverIndex, query: Vectors, words: str) -> None:
    with pytest.raises(InputError, match=words):
        index.search(query, 5, encoder_fingerprint="encoder-1")


def test_no_queries_have_no_answers(index: CoverIndex) -> None:
    assert index.search(np.zeros((0, WIDTH), np.float32), 5, encoder_fingerprint="encoder-1") == []


def test_a_track_is_given_back_with_both_its_sides(index: CoverIndex) -> None:
    indexed = index.get("s5")
    assert (indexed.track.title, indexed.cover_uri) == ("title 5", "file:///5.png")
    assert indexed.song_embedding is not None
    assert indexed.cover_embedding is not None
    assert np.array_equal(indexed.song_embedding, SONGS[5])
    assert np.array_equal(indexed.cover_embedding, COVERS[5])


def test_a_track_without_a_cover_is_known_but_never_found(index: CoverIndex) -> None:
    bare = index.get("s4")
    assert (bare.cover_uri, bare.cover_embedding) == (None, None)
    assert "s4" not in ids(search(index, COVERS[4], 100))
    with pytest.raises(UnknownTrack, match="'s4' has no cover"):
        index.cover_embeddings(["s3", "s4"])


def test_an_unknown_track_is_named(index: CoverIndex) -> None:
    with pytest.raises(UnknownTrack, match="'s99' is not in this index of 60 tracks"):
        index.get("s99")
    with pytest.raises(UnknownTrack, match="'s99'"):
        index.cover_embeddings(["s1", "s99"])


def test_cover_embeddings_come_in_the_order_asked(index: CoverIndex) -> None:
    assert np.array_equal(index.cover_embeddings(["s9", "s2", "s9"]), COVERS[[9, 2, 9]])
    assert index.cover_embeddings([]).shape == (0, WIDTH)


def test_an_index_of_no_covers_finds_nothing() -> None:
    index = CoverIndex(indexed_tracks(COVERS[:2], without_cover=(0, 1)), "encoder-1")
    assert (index.ntotal, index.embed_dim, search(index, SONGS[0], 5)) == (0, WIDTH, [])


def test_what_was_saved_finds_the_same(index: CoverIndex, tmp_path: Path) -> None:
    tracks = indexed_tracks(COVERS, without_cover=BARE, songs=SONGS)
    save(index.shards[0], str(tmp_path / "covers.faiss"))
    again = CoverIndex(tracks, "encoder-1", open_mapped(str(tmp_path / "covers.faiss")))
    assert search(again, SONGS[2], 30) == search(index, SONGS[2], 30)


@pytest.mark.parametrize("damage", [b"", b"x", b"no index at all" * 20, bytes(400)])
def test_bytes_that_are_no_index_are_corrupt(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "covers.faiss").write_bytes(damage)
    with pytest.raises(BundleCorrupt, match="cannot be read"):
        open_mapped(str(tmp_path / "covers.faiss"))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.99])
def test_an_index_cut_short_is_corrupt(index: CoverIndex, tmp_path: Path, share: float) -> None:
    path = tmp_path / "covers.faiss"
    save(index.shards[0], str(path))
    os.truncate(path, round(path.stat().st_size * share))
    with pytest.raises(BundleCorrupt, match="build it again"):
        open_mapped(str(path))


def test_vectors_that_are_not_those_of_the_table_are_corrupt() -> None:
    with pytest.raises(BundleCorrupt, match="60 vectors for 57 covers"):
        CoverIndex(indexed_tracks(COVERS, without_cover=BARE), "encoder-1", build(COVERS, "flat"))
