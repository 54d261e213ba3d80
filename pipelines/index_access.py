"""Access to the index from a driver: in its own process where it is small, else in an actor of the cluster.

The machine that a run is started from need not have the memory that an index of millions of covers takes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray

from gatefold.index.interface import ALL, Filters, Index, IndexedTrack
from gatefold.index.vectors import Vectors
from gatefold.records import Match
from gatefold.storage.bundles import open_bundle
from gatefold.storage.models.indexes import load_index, shards_of
from pipelines.row_mapper import reraise_domain_errors

SONGS_IN_PROCESS = 100_000
"""of which vectors and metadata take about a hundred megabytes at the default width"""


def open_index(uri: str) -> Index:
    """The index of this bundle. Raises: BundleNotFound, BundleCorrupt."""
    songs = sum(shard.tracks for shard in shards_of(open_bundle(uri, "index")))
    return load_index(uri) if songs <= SONGS_IN_PROCESS else RemoteIndex(uri)


class RemoteIndex:
    """An index in an actor, which ends with this object."""

    def __init__(self, uri: str) -> None:
        # no core is claimed: tasks that wait for an answer may have claimed all
        self._actor = ray.remote(num_cpus=0)(_Holder).remote(uri)
        self.encoder_fingerprint: str = self._ask("fingerprint")

    def search(
        self, embeddings: Vectors, k: int, *, encoder_fingerprint: str, filters: Filters = ALL
    ) -> list[list[Match]]:
        """As `CoverIndex.search`.

        Args:
            embeddings: float32 [B, D], B queries of unit length in a joint space of width D.
        """
        found: list[list[Match]] = self._ask("search", embeddings, k, encoder_fingerprint, filters)
        return found

    def get(self, song_id: str) -> IndexedTrack:
        """As `CoverIndex.get`."""
        track: IndexedTrack = self._ask("get", song_id)
        return track

    def song_embedding(self, song_id: str) -> Vectors:
        """float32 [D], as `CoverIndex.song_embedding`."""
        (vector,) = self.song_embeddings([song_id])
        return np.asarray(vector, np.float32)

    def song_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D], as `CoverIndex.song_embeddings`."""
        vectors: Vectors = self._ask("song_embeddings", list(song_ids))
        return vectors

    def cover_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D], as `CoverIndex.cover_embeddings`."""
        vectors: Vectors = self._ask("cover_embeddings", list(song_ids))
        return vectors

    def _ask(self, method: str, *arguments: Any) -> Any:
        with reraise_domain_errors():
            return ray.get(getattr(self._actor, method).remote(*arguments))


class _Holder:
    """The actor."""

    def __init__(self, uri: str) -> None:
        self._index = load_index(uri)

    def fingerprint(self) -> str:
        return self._index.encoder_fingerprint

    def search(self, embeddings: Vectors, k: int, fingerprint: str, filters: Filters) -> list[list[Match]]:
        return self._index.search(embeddings, k, encoder_fingerprint=fingerprint, filters=filters)

    def get(self, song_id: str) -> IndexedTrack:
        return self._index.get(song_id)

    def song_embeddings(self, song_ids: list[str]) -> Vectors:
        return self._index.song_embeddings(song_ids)

    def cover_embeddings(self, song_ids: list[str]) -> Vectors:
        return self._index.cover_embeddings(song_ids)
