"""Searches that are answered together, and by several shards: as if each were alone, and the index whole."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gatefold.config import IndexSettings
from gatefold.errors import InputError, UnknownTrack, WrongModel
from gatefold.index.interface import ALL, Filters, IndexedTrack, MatchColumns
from gatefold.index.retrieval import CoverIndex, unit_columns
from gatefold.index.tuning import build_tuned
from gatefold.records import Match
from gatefold.storage.models.indexes import Shard
from serve.deployments.retriever import Answer, Shards, search_batch
from serve.interfaces import Query, Vector

TRACKS, WIDTH = 40, 8


@pytest.fixture(scope="module")
def table() -> pa.Table:
    vectors = unit(np.random.default_rng(0).normal(size=(TRACKS, WIDTH)))
    vectors[10:14] = vectors[30]  # one album, over two shards
    column = pa.array(vectors.tolist(), pa.list_(pa.float32(), WIDTH))
    ids = [f"t{i:02}" for i in range(TRACKS)]
    empty = pa.nulls(TRACKS, pa.string())
    return pa.table(
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


@pytest.fixture(scope="module")
def index(table: pa.Table) -> CoverIndex:
    return CoverIndex(table, "encoder")


@dataclass(frozen=True)
class Method:
    """One of a deployment's, in this process."""

    remote: Callable[..., Awaitable[object]]


class Handle:
    """Of a deployment that holds a shard, without Ray."""

    def __init__(self, index: CoverIndex) -> None:
        self._index = index

    def __getattr__(self, name: str) -> Method:
        return Method(getattr(self, f"_{name}"))

    async def _search(self, queries: list[Query]) -> list[Answer]:
        return search_batch(self._index, queries)

    async def _track(self, song_id: str) -> IndexedTrack:
        return self._index.get(song_id)

    async def _cover_embeddings(self, song_ids: list[str]) -> Vector:
        return self._index.cover_embeddings(song_ids)


@pytest.fixture(scope="module")
def shards(table: pa.Table) -> Shards:
    """Three, of 12, 8 and 20 tracks."""
    parts = [table.slice(0, 12), table.slice(12, 8), table.slice(20)]
    described = [
        Shard(
            folder=f"shard-{number:03}/",
            first_song_id=part["song_id"][0].as_py() if number else "",
            covers=part.num_rows,
            tracks=part.num_rows,
            stats=build_tuned(*unit_columns(part), IndexSettings()).stats,
        )
        for number, part in enumerate(parts)
    ]
    handles: list[Any] = [Handle(CoverIndex(part, "encoder")) for part in parts]
    return Shards(described, handles)


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled.astype(np.float32)


def query(seed: int, k: int = 5, encoder: str = "encoder", width: int = WIDTH, filters: Filters = ALL) -> Query:
    return Query(unit(np.random.default_rng(seed).normal(size=width)), encoder, k, filters)


def alone(index: CoverIndex, q: Query) -> list[Match]:
    return index.search(q.embedding[None], q.k, encoder_fingerprint=q.encoder, filters=q.filters)[0]


QUERIES = [
    Query(unit(np.random.default_rng(0).normal(size=(TRACKS, WIDTH)))[30], "encoder", 3),  # the album, and k cuts it
    query(1),
    query(2, k=11),
    query(3, filters=Filters(where=(("genre", frozenset({"jazz"})),))),
    query(4, k=1),
    query(5, k=40, filters=Filters(exclude_artists=frozenset({"a0", "a1"}))),
    query(6, filters=Filters(frozenset({"t01"}), where=(("genre", frozenset({"rock"})),))),
    query(7, k=1000),
]


def test_searches_answered_together_equal_searches_answered_alone(index: CoverIndex) -> None:
    for q, answer in zip(QUERIES, search_batch(index, QUERIES), strict=True):
        assert matches(answer) == alone(index, q)


def test_shards_answer_as_the_whole_bit_for_bit(index: CoverIndex, shards: Shards) -> None:
    whole = search_batch(index, QUERIES)
    assert asyncio.run(shards.search(QUERIES)) == whole
    assert matches(whole[0])[0].score == matches(whole[0])[2].score


def test_shards_agree_on_what_cannot_be_answered(shards: Shards) -> None:
    first, foreign = asyncio.run(shards.search([query(1), query(2, encoder="other encoder")]))
    assert len(matches(first)) == 5
    assert isinstance(foreign, WrongModel)


def test_a_track_is_asked_of_the_shard_that_has_it(index: CoverIndex, shards: Shards) -> None:
    for song_id in ("t00", "t11", "t12", "t19", "t20", "t39"):
        assert asyncio.run(shards.track(song_id)).track == index.get(song_id).track
    for song_id in ("", "t111", "zebra"):
        with pytest.raises(UnknownTrack, match=f"track '{song_id}' is not in this index"):
            asyncio.run(shards.track(song_id))
    song_ids = ["t39", "t00", "t15", "t00", "t20"]
    assert np.array_equal(asyncio.run(shards.cover_embeddings(song_ids)), index.cover_embeddings(song_ids))
    assert asyncio.run(shards.cover_embeddings([])).shape == (0, WIDTH)


def test_a_query_that_cannot_be_answered_harms_no_other(index: CoverIndex) -> None:
    first, foreign, narrow, last = search_batch(
        index, [query(1), query(2, encoder="other encoder"), query(3, width=3), query(4)]
    )
    assert isinstance(foreign, WrongModel)
    assert isinstance(narrow, InputError)
    assert matches(first) == alone(index, query(1))
    assert matches(last) == alone(index, query(4))


def matches(answer: Answer) -> list[Match]:
    assert isinstance(answer, MatchColumns)
    return answer.matches()
