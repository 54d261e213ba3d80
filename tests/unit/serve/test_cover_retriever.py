import numpy as np
import pyarrow as pa
import pytest

from gatefold.errors import InputError, WrongModel
from gatefold.records import Match
from gatefold.retrieval import CoverIndex
from serve.cover_retriever import search_together
from serve.stages import Query

TRACKS, WIDTH = 40, 8


@pytest.fixture(scope="module")
def index() -> CoverIndex:
    vectors = unit(np.random.default_rng(0).normal(size=(TRACKS, WIDTH)))
    column = pa.array(vectors.tolist(), pa.list_(pa.float32(), WIDTH))
    ids = [f"t{i}" for i in range(TRACKS)]
    empty = pa.nulls(TRACKS, pa.string())
    table = pa.table(
        {
            "song_id": ids,
            "title": empty,
            "artist": [f"a{i % 4}" for i in range(TRACKS)],
            "album": empty,
            "genre": [["jazz", "rock"][i % 2] for i in range(TRACKS)],
            "cover_uri": empty,
            "song_embedding": column,
            "cover_embedding": column,
        }
    )
    return CoverIndex(table, "ears")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def query(seed: int, k: int = 5, encoder: str = "ears", width: int = WIDTH, **filters: frozenset[str]) -> Query:
    return Query(unit(np.random.default_rng(seed).normal(size=width)), encoder, k, **filters)


def alone(index: CoverIndex, q: Query) -> list[Match]:
    return index.search(
        q.embedding[None],
        q.k,
        encoder_fingerprint=q.encoder,
        exclude_song_ids=q.exclude_song_ids,
        exclude_artists=q.exclude_artists,
        genres=q.genres,
    )[0]


def test_searches_answered_together_equal_searches_answered_alone(index: CoverIndex) -> None:
    queries = [
        query(1),
        query(2, k=11),
        query(3, genres=frozenset({"jazz"})),
        query(4, k=1),
        query(5, k=40, exclude_artists=frozenset({"a0", "a1"})),
        query(6, exclude_song_ids=frozenset({"t1"}), genres=frozenset({"rock"})),
        query(7, k=1000),
    ]
    together = search_together(index, queries)
    for q, answer in zip(queries, together, strict=True):
        assert not isinstance(answer, Exception)
        expected = alone(index, q)
        assert [m.track for m in answer] == [m.track for m in expected]
        assert [m.rank for m in answer] == [m.rank for m in expected]
        assert [m.score for m in answer] == pytest.approx([m.score for m in expected], abs=1e-6)


def test_a_query_that_cannot_be_answered_harms_no_other(index: CoverIndex) -> None:
    first, foreign, narrow, last = search_together(
        index, [query(1), query(2, encoder="other ears"), query(3, width=3), query(4)]
    )
    assert isinstance(foreign, WrongModel)
    assert isinstance(narrow, InputError)
    assert first == alone(index, query(1))
    assert last == alone(index, query(4))
