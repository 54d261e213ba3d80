"""The index as a deployment. Searches that arrive together are answered together, which costs little more than one of
them. Knows nothing of songs, pictures or HTTP."""

import asyncio
from collections import defaultdict

import faiss
import numpy as np
from ray import serve

from gatefold.errors import GatefoldError
from gatefold.records import Match
from gatefold.retrieval import CoverIndex, IndexedTrack
from gatefold.storage.indexes import load_index
from serve import replica
from serve.stages import IndexFacts, Query, Vector


class CoverRetriever:
    """One index bundle."""

    def __init__(self, bundle_uri: str, endpoint_url: str | None) -> None:
        replica.enter(endpoint_url)
        self._index = load_index(bundle_uri)

    def reconfigure(self, tuning: dict[str, float]) -> None:
        """`user_config`: threads of FAISS, searches answered together, and seconds that the first of them waits."""
        faiss.omp_set_num_threads(int(tuning["threads"]))
        self._search_together.set_max_batch_size(int(tuning["batch"]))
        self._search_together.set_batch_wait_timeout_s(tuning["batch_wait_s"])

    async def search(self, query: Query) -> list[Match]:
        """At most k matches, the nearest first. Raises: WrongModel, InputError."""
        answer: list[Match] | GatefoldError = await self._search_together(query)
        if isinstance(answer, GatefoldError):
            raise answer
        return answer

    async def track(self, song_id: str) -> IndexedTrack:
        """Raises: UnknownTrack."""
        return self._index.get(song_id)

    async def cover_embeddings(self, song_ids: list[str]) -> Vector:
        """float32 [N, D]. Raises: UnknownTrack."""
        return self._index.cover_embeddings(song_ids)

    async def describe(self) -> IndexFacts:
        return IndexFacts(self._index.ntotal, self._index.embed_dim)

    @serve.batch  # type: ignore[untyped-decorator]
    async def _search_together(self, queries: list[Query]) -> list[list[Match] | GatefoldError]:
        return await asyncio.to_thread(search_together, self._index, queries)


def search_together(index: CoverIndex, queries: list[Query]) -> list[list[Match] | GatefoldError]:
    """For each query its matches, or the error that it alone deserves.

    Queries with the same filters go to the index as one, with the largest k among them; each then keeps its own k.
    """
    groups: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
    for position, q in enumerate(queries):
        groups[q.encoder, q.embedding.shape, q.exclude_song_ids, q.exclude_artists, q.genres].append(position)
    answers: list[list[Match] | GatefoldError] = [[] for _ in queries]
    for members in groups.values():
        first = queries[members[0]]
        try:
            found = index.search(
                np.stack([queries[position].embedding for position in members]),
                max(queries[position].k for position in members),
                encoder_fingerprint=first.encoder,
                exclude_song_ids=first.exclude_song_ids,
                exclude_artists=first.exclude_artists,
                genres=first.genres,
            )
        except GatefoldError as error:
            answers = [error if position in members else answer for position, answer in enumerate(answers)]
        else:
            for position, matches in zip(members, found, strict=True):
                answers[position] = matches[: queries[position].k]
    return answers
