"""The index: which covers lie nearest to a song, by inner products of unit vectors (so scores are cosines).

Where the vectors are searched approximately (vectors.py), it still answers with k covers wherever the filters leave k,
and with true cosines: the table of tracks has every vector.

An index knows which encoder made its vectors and refuses another's: vectors of two encoders are both unit length and
both meaningless to each other, and the wrong answers would look like answers. Knows nothing of files or of Ray.

Shape legend: B = queries, T = tracks, D = width of the joint space.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import BundleCorrupt, InputError, UnknownTrack, WrongModel
from gatefold.records import Match, Track
from gatefold.tuning import DEPTH
from gatefold.vectors import Ids, Mask, Vectors, build, kind_of, search

METADATA = ("song_id", "title", "artist", "album", "genre", "cover_uri")
FEW = 20_000
"""allowed vectors up to which comparing with each is faster than searching for them"""
_PIECE = 8_192


@dataclass(frozen=True)
class IndexedTrack:
    """A track as the index holds it; an embedding is None where the song has no such side."""

    track: Track
    cover_uri: str | None
    song_embedding: Vectors | None
    cover_embedding: Vectors | None


class CoverIndex:
    """Covers of a catalogue, searchable by song or cover embedding.

    Args:
        tracks: one row a song: METADATA, song_embedding and cover_embedding (null where there is none).
        vectors: the FAISS index of the covers there are, in row order; a flat one is built from `tracks` when None.
        encoder_fingerprint: of the encoder whose vectors these are.
    """

    def __init__(self, tracks: pa.Table, encoder_fingerprint: str, vectors: faiss.Index | None = None) -> None:
        self.encoder_fingerprint = encoder_fingerprint
        self._tracks = tracks.combine_chunks()
        has_cover = pc.is_valid(tracks["cover_embedding"])
        self._rows = np.flatnonzero(has_cover.to_numpy())  # FAISS id -> row of the table
        self._covers = _slots(tracks["cover_embedding"])  # by row of the table
        self._ids = tracks["song_id"].to_pylist()
        self._row_of = {song_id: row for row, song_id in enumerate(self._ids)}
        self._labels = {column: _Labels(tracks[column], self._rows) for column in ("artist", "genre")}
        self._vectors = build(self._covers[self._rows], "flat") if vectors is None else vectors
        self._kind = kind_of(self._vectors)
        if (self.ntotal, self.embed_dim) != (len(self._rows), self._covers.shape[1]):
            raise BundleCorrupt(
                f"index holds {self.ntotal} vectors for {len(self._rows)} covers, {self.embed_dim} wide for "
                f"{self._covers.shape[1]}; build it again"
            )

    @property
    def ntotal(self) -> int:
        """covers"""
        return int(self._vectors.ntotal)

    @property
    def embed_dim(self) -> int:
        return int(self._vectors.d)

    def search(
        self,
        embeddings: Vectors,
        k: int,
        *,
        encoder_fingerprint: str,
        exclude_song_ids: Collection[str] = (),
        exclude_artists: Collection[str] = (),
        genres: Collection[str] = (),
    ) -> list[list[Match]]:
        """The k nearest covers of each query [B, D], best first; fewer only where the filters leave fewer.

        Raises: WrongModel naming both fingerprints; InputError for a query that is not [B, D] or not finite.
        """
        self._check(embeddings, encoder_fingerprint)
        allowed = self._allowed(exclude_song_ids, exclude_artists, genres)
        return [self._matches(*row) for row in zip(*self.nearest(embeddings, k, allowed), strict=True)]

    def nearest(self, embeddings: Vectors, k: int, allowed: Mask | None = None) -> tuple[Vectors, Ids]:
        """Cosines and numbers of the nearest covers of each query, both [B, k], best first; covers count from 0 in the
        order of the tracks.

        Fewer than k only where there are no more, or the filters leave no more.

        Args:
            embeddings: float32 [B, D].
            allowed: bool [ntotal], which covers may be found; None for all.
        """
        left = self.ntotal if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, left)
        if k == 0 or len(embeddings) == 0:
            return np.zeros((len(embeddings), 0), np.float32), np.zeros((len(embeddings), 0), np.int64)
        queries = np.ascontiguousarray(embeddings, np.float32)
        if self._kind == "flat":
            return search(self._vectors, queries, k, allowed=allowed)
        if allowed is not None and left <= FEW:
            return self._compare(queries, k, np.flatnonzero(allowed))
        # tuned for DEPTH among all: more answers, or rarer ones, lie deeper
        scale = max(1.0, k / DEPTH) * self.ntotal / left
        scores, found = search(self._vectors, queries, k, allowed=allowed, scale=scale)
        short = np.flatnonzero((found < 0).any(axis=1))
        if len(short):
            among = np.arange(self.ntotal) if allowed is None else np.flatnonzero(allowed)
            scores[short], found[short] = self._compare(queries[short], k, among)
        if self._kind == "ivfpq":  # whose scores are those of rounded vectors
            for row, ids in enumerate(found):
                scores[row : row + 1], found[row : row + 1] = self._compare(queries[row : row + 1], k, ids)
        return scores, found

    def get(self, song_id: str) -> IndexedTrack:
        """Raises: UnknownTrack."""
        row = self._row(song_id)
        values = self._tracks.slice(row, 1).to_pylist()[0]
        sides = (values["song_embedding"], values["cover_embedding"])
        song, cover = (None if side is None else np.asarray(side, np.float32) for side in sides)
        return IndexedTrack(self._tracks_at(np.array([row]))[0], values["cover_uri"], song, cover)

    def cover_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D]. Raises: UnknownTrack, also for a track without a cover."""
        rows = [self._row(song_id) for song_id in song_ids]
        for song_id, covered in zip(song_ids, np.isin(rows, self._rows), strict=True):
            if not covered:
                raise UnknownTrack(f"track '{song_id}' has no cover in this index")
        return self._covers[np.array(rows, np.int64)]

    @property
    def vectors(self) -> faiss.Index:
        """The FAISS part, for a bundle."""
        return self._vectors

    def _compare(self, queries: Vectors, k: int, among: Ids) -> tuple[Vectors, Ids]:
        """The k nearest of these covers, exactly, as `nearest` has them; `among` has at least k."""
        scores, found = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        for start in range(0, len(among), _PIECE):
            piece = among[start : start + _PIECE]
            scores = np.concatenate([scores, queries @ self._covers[self._rows[piece]].T], axis=1)
            found = np.concatenate([found, np.broadcast_to(piece, (len(queries), len(piece)))], axis=1)
            if scores.shape[1] > k:
                best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
                scores, found = np.take_along_axis(scores, best, 1), np.take_along_axis(found, best, 1)
        order = np.lexsort((found, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)

    def _check(self, embeddings: Vectors, encoder_fingerprint: str) -> None:
        if encoder_fingerprint != self.encoder_fingerprint:
            raise WrongModel(
                f"embedding of encoder '{encoder_fingerprint}', but this index holds those of "
                f"'{self.encoder_fingerprint}'; embed the song again"
            )
        if embeddings.ndim != 2 or embeddings.shape[1] != self.embed_dim:
            raise InputError(f"embedding of shape {embeddings.shape[1:]}, this index takes [{self.embed_dim}]")
        if not np.isfinite(embeddings).all():
            raise InputError("embedding holds values that are no finite numbers")

    def _allowed(
        self, song_ids: Collection[str], artists: Collection[str], genres: Collection[str]
    ) -> Mask | None:
        """Which FAISS ids the filters leave, bool [ntotal], or None for all."""
        if not (song_ids or artists or genres):
            return None
        keep = np.ones(self.ntotal, bool)
        rows = [self._row_of[song_id] for song_id in song_ids if song_id in self._row_of]
        covered = np.intersect1d(rows, self._rows) if rows else self._rows[:0]
        keep[np.searchsorted(self._rows, covered)] = False
        if artists:
            keep &= ~self._labels["artist"].among(artists)
        if genres:
            keep &= self._labels["genre"].among(genres)
        return keep

    def _matches(self, scores: Vectors, found: Ids) -> list[Match]:
        tracks = self._tracks_at(self._rows[found])
        return [
            Match(rank=rank, score=min(float(score), 1.0), track=track)  # rounding may exceed 1
            for rank, (score, track) in enumerate(zip(scores, tracks, strict=True), start=1)
        ]

    def _tracks_at(self, rows: Ids) -> list[Track]:
        chosen = self._tracks.select(list(Track.model_fields)).take(pa.array(rows, pa.int64()))
        return [Track(**values) for values in chosen.to_pylist()]

    def _row(self, song_id: str) -> int:
        if song_id not in self._row_of:
            raise UnknownTrack(f"track '{song_id}' is not in this index of {len(self._ids):,} tracks")
        return self._row_of[song_id]


class _Labels:
    """What a column of the table says of each cover, found fast."""

    def __init__(self, column: pa.ChunkedArray, rows: Ids) -> None:
        encoded = column.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        self._codes: npt.NDArray[np.int32] = codes[rows]
        self._code_of = {value: code for code, value in enumerate(encoded.dictionary.to_pylist())}

    def among(self, values: Collection[str]) -> Mask:
        """bool [covers]: whose label is one of these."""
        codes = [self._code_of[value] for value in set(values) if value in self._code_of]
        if len(codes) == 1:
            one: Mask = self._codes == codes[0]
            return one
        return np.isin(self._codes, codes)


def _slots(column: pa.ChunkedArray) -> Vectors:
    """A fixed-size-list column -> float32 [rows, D], without a copy; what stands for a null is undefined."""
    lists = column.combine_chunks()
    width = lists.type.list_size
    flat = lists.values.to_numpy(zero_copy_only=False)[lists.offset * width : (lists.offset + len(lists)) * width]
    return np.asarray(flat, np.float32).reshape(-1, width)


def unit_columns(tracks: pa.Table) -> tuple[Vectors, Vectors]:
    """The covers and the songs of a table that have an embedding, float32 [T, D] and [S, D], in its order."""
    covers, songs = (_slots(tracks[f"{side}_embedding"].drop_null()) for side in ("cover", "song"))
    return covers, songs
