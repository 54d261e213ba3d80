"""The index as Ray Serve deployments, of one shard or several.

Searches that come together are answered together, which costs little more than one of them. An index of one shard is
searched in the retriever itself; of several, each is a deployment of its own, and their answers are merged to those of
the whole. Knows nothing of songs, pictures or HTTP.
"""

import asyncio
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import faiss
import numpy as np
from ray.serve import Application, Deployment
from ray.serve.handle import DeploymentHandle

from gatefold.errors import GatefoldError
from gatefold.index.interface import IndexedTrack, MatchColumns, merge_matches
from gatefold.index.retrieval import CoverIndex
from gatefold.storage.bundles import open_bundle
from gatefold.storage.models.indexes import Shard, load_index, shards_of
from serve.deployments import replica
from serve.deployments.handles import call
from serve.interfaces import IndexFacts, Query, SongQuery, Vector
from serve.observability.metrics import SEARCH, SEARCHES
from serve.observability.observed import observed
from serve.observability.tracing import TraceArgs

Answer = MatchColumns | GatefoldError


def bind_retriever(
    bundle_uri: str,
    endpoint_url: str | None,
    deployment: Callable[[type], Deployment],
    shard_options: dict[str, Any],
    traces: TraceArgs | None = None,
) -> Application:
    """The retriever of an index bundle, with a deployment for each of its shards where it has several.

    Args:
        deployment: makes one of a class.
        shard_options: of Ray Serve, for each deployment `CoverShard0`, `CoverShard1`, …
    """
    count = len(shards_of(open_bundle(bundle_uri, "index")))
    names = [f"CoverShard{number}" for number in range(count)] if count > 1 else []
    shards = [
        deployment(CoverShard).options(name=name, **shard_options).bind(bundle_uri, number, endpoint_url, traces)
        for number, name in enumerate(names)
    ]
    return deployment(CoverRetriever).bind(bundle_uri, endpoint_url, shards, traces)


@observed
class CoverShard:
    """One shard of an index bundle; all of it when `number` is None."""

    def __init__(
        self, bundle_uri: str, number: int | None, endpoint_url: str | None, traces: TraceArgs | None = None
    ) -> None:
        replica.set_up(endpoint_url, traces)
        self._index = load_index(bundle_uri, number, device=replica.granted_device())
        self._threads = 1

    def reconfigure(self, tuning: dict[str, float]) -> None:
        """`user_config`: threads of FAISS."""
        self._threads = int(tuning["threads"])

    async def search(self, queries: list[Query]) -> list[Answer]:
        """For each query its hits, or its own error."""
        return await asyncio.to_thread(search_batch, self._index, queries, self._threads)

    async def track(self, song_id: str) -> IndexedTrack:
        """The track of this id, with its embeddings float32 [D]. Raises: UnknownTrack."""
        return self._index.get(song_id)

    async def cover_embeddings(self, song_ids: list[str]) -> Vector:
        """float32 [len(song_ids), D], D = width of the joint space. Raises: UnknownTrack."""
        return self._index.cover_embeddings(song_ids)


@observed
class CoverRetriever:
    """One index bundle.

    Args:
        shards: a deployment for each of its shards; without any, it is searched here.
    """

    def __init__(
        self,
        bundle_uri: str,
        endpoint_url: str | None,
        shards: Sequence[DeploymentHandle] = (),
        traces: TraceArgs | None = None,
    ) -> None:
        replica.set_up(endpoint_url, traces)
        described = shards_of(open_bundle(bundle_uri, "index"))
        self._facts = IndexFacts(sum(shard.covers for shard in described), described[0].stats.width)
        whole = None if shards else CoverShard(bundle_uri, None, endpoint_url, traces)
        self._index: _Searching = whole or Shards(described, shards)

    def reconfigure(self, tuning: dict[str, float]) -> None:
        """`user_config`: threads of FAISS."""
        if isinstance(self._index, CoverShard):
            self._index.reconfigure(tuning)

    async def search(self, queries: list[Query | SongQuery]) -> list[Answer]:
        """For each query at most k hits, the nearest first, or its own error."""
        resolved = await asyncio.gather(*map(self._to_query, queries))
        with SEARCH.time():
            answers = iter(await self._index.search([query for query in resolved if isinstance(query, Query)]))
        SEARCHES.add(len(queries))
        return [next(answers) if isinstance(query, Query) else query for query in resolved]

    async def _to_query(self, query: Query | SongQuery) -> Query | GatefoldError:
        try:
            return query if isinstance(query, Query) else query.to_query(await self._index.track(query.song_id))
        except GatefoldError as error:
            return error

    async def track(self, song_id: str) -> IndexedTrack:
        """The track of this id, with its embeddings float32 [D]. Raises: UnknownTrack."""
        return await self._index.track(song_id)

    async def cover_embeddings(self, song_ids: list[str]) -> Vector:
        """float32 [N, D]. Raises: UnknownTrack."""
        return await self._index.cover_embeddings(song_ids)

    async def describe(self) -> IndexFacts:
        """Covers in all shards, and the width of an embedding."""
        return self._facts


class _Searching(Protocol):
    """What a shard does, and all of them together."""

    async def search(self, queries: list[Query]) -> list[Answer]: ...
    async def track(self, song_id: str) -> IndexedTrack: ...
    async def cover_embeddings(self, song_ids: list[str]) -> Vector: ...


class Shards:
    """All shards of a bundle, behind their handles."""

    def __init__(self, described: Sequence[Shard], handles: Sequence[DeploymentHandle]) -> None:
        self._firsts = [shard.first_song_id for shard in described]
        self._width = described[0].stats.width
        self._handles = handles

    async def search(self, queries: list[Query]) -> list[Answer]:
        """For each query at most k hits of all shards, the nearest first, or its own error."""
        answers = await asyncio.gather(*(call(handle.search, queries) for handle in self._handles))
        return [_merged(query, parts) for query, parts in zip(queries, zip(*answers, strict=True), strict=True)]

    async def track(self, song_id: str) -> IndexedTrack:
        """The track of this id, with its embeddings float32 [D]. Raises: UnknownTrack."""
        known: IndexedTrack = await call(self._handles[self._shard_of(song_id)].track, song_id)
        return known

    async def cover_embeddings(self, song_ids: list[str]) -> Vector:
        """float32 [len(song_ids), D], in the order of the ids, wherever they lie. Raises: UnknownTrack."""
        shards = np.array([self._shard_of(song_id) for song_id in song_ids], np.int64)
        found = np.empty((len(song_ids), self._width), np.float32)
        places = [np.flatnonzero(shards == number) for number in np.unique(shards)]
        calls = [
            call(self._handles[shards[rows[0]]].cover_embeddings, [song_ids[row] for row in rows]) for rows in places
        ]
        for rows, vectors in zip(places, await asyncio.gather(*calls), strict=True):
            found[rows] = vectors
        return found

    def _shard_of(self, song_id: str) -> int:
        return bisect_right(self._firsts, song_id) - 1


def _merged(query: Query, parts: Sequence[Answer]) -> Answer:
    """What the whole index would answer; an error that one shard found in the query, they all found."""
    hits = [part for part in parts if isinstance(part, MatchColumns)]
    errors = [part for part in parts if isinstance(part, GatefoldError)]
    return errors[0] if errors else merge_matches(hits, query.k)


def search_batch(index: CoverIndex, queries: list[Query], threads: int = 1) -> list[Answer]:
    """For each query its hits, or its own error.

    Queries with the same filters go to the index as one, with the largest k among them; each then keeps its own k.

    Args:
        threads: of FAISS.
    """
    faiss.omp_set_num_threads(threads)  # which holds for the thread that says it
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, q in enumerate(queries):
        groups[q.encoder, q.embedding.shape, q.filters].append(position)
    answers: dict[int, Answer] = {}
    for members in groups.values():
        first = queries[members[0]]
        try:
            found = index.search_columns(
                np.stack([queries[position].embedding for position in members]),
                max(queries[position].k for position in members),
                encoder_fingerprint=first.encoder,
                filters=first.filters,
            )
        except GatefoldError as error:
            answers |= dict.fromkeys(members, error)
        else:
            for position, hits in zip(members, found, strict=True):
                answers[position] = hits.first(queries[position].k)
    return [answers[position] for position in range(len(queries))]
