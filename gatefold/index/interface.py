"""The interface of an index of covers, wherever it is held, and what it returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pydantic import TypeAdapter

from gatefold.index.vectors import Vectors
from gatefold.names import normal_name
from gatefold.records import Match, Track


@dataclass(frozen=True)
class Filters:
    """Which covers a search may find: those that all of these allow."""

    exclude_song_ids: frozenset[str] = frozenset()
    exclude_artists: frozenset[str] = frozenset()
    """compared, as all names of `names.NAMED`, by `names.normal_name`"""
    where: tuple[tuple[str, frozenset[str]], ...] = ()
    """columns of the index, and the values of which one must be there"""

    def excludes_artist(self, artist: str | None) -> bool:
        """Whether covers of this artist are left out."""
        return bool(artist) and normal_name(artist) in {normal_name(name) for name in self.exclude_artists}


ALL = Filters()
_MATCHES = TypeAdapter(list[Match])


@dataclass(frozen=True)
class IndexedTrack:
    """A track as the index holds it; an embedding is None where the song has no such side."""

    track: Track
    cover_uri: str | None
    song_embedding: Vectors | None
    cover_embedding: Vectors | None


class Index(Protocol):
    """The methods of an index wherever it is held; each method answers as `CoverIndex` does."""

    encoder_fingerprint: str

    def search(
        self, embeddings: Vectors, k: int, *, encoder_fingerprint: str, filters: Filters = ALL
    ) -> list[list[Match]]:
        """For each embedding at most `k` matches, the nearest first. Raises: WrongModel for another encoder's.

        Args:
            embeddings: float32 [n, D], unit length.
            encoder_fingerprint: of the encoder that made them.
        """
        ...

    def get(self, song_id: str) -> IndexedTrack:
        """The track of this id, with its embeddings. Raises: UnknownTrack."""
        ...

    def song_embedding(self, song_id: str) -> Vectors:
        """float32 [D], unit length. Raises: UnknownTrack, also where the song has none."""
        ...

    def song_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D], in the order of the ids. Raises: UnknownTrack, also where a song has none."""
        ...

    def cover_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D], in the order of the ids. Raises: UnknownTrack, also where a song has none."""
        ...


@dataclass(frozen=True)
class MatchColumns:
    """The covers nearest to a query, best first, in columns: these cross to another process faster than matches."""

    scores: list[float]
    """cosines; rounding may exceed 1"""
    tracks: dict[str, list[str | None]]
    """by field of Track"""

    def matches(self) -> list[Match]:
        """One match for each cover, with its rank from 1; scores are at most 1."""
        names, rows = tuple(self.tracks), zip(*self.tracks.values(), strict=True)
        return _MATCHES.validate_python(  # all in one go, which takes half as long as one by one
            [
                {"rank": rank, "score": min(score, 1.0), "track": dict(zip(names, row, strict=True))}
                for rank, (score, row) in enumerate(zip(self.scores, rows, strict=True), start=1)
            ]
        )

    def first(self, k: int) -> "MatchColumns":
        """The k nearest of them."""
        return MatchColumns(self.scores[:k], {name: values[:k] for name, values in self.tracks.items()})


def merge_matches(shards: Sequence[MatchColumns], k: int) -> MatchColumns:
    """The k nearest of what shards found, which come in their order: of equally near ones the earlier."""
    scores = [score for hits in shards for score in hits.scores]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)[:k]  # stable, also in reverse
    columns = {name: [value for hits in shards for value in hits.tracks[name]] for name in shards[0].tracks}
    return MatchColumns(
        [scores[i] for i in order], {name: [values[i] for i in order] for name, values in columns.items()}
    )
