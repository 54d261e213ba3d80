"""The index: which covers lie nearest to a song. Exact inner products of unit vectors (so scores are cosines), by
FAISS.

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

Vectors = npt.NDArray[np.float32]
METADATA = ("song_id", "title", "artist", "album", "genre", "cover_uri")


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
        vectors: the FAISS index of the covers there are, in row order; built from `tracks` when None.
        encoder_fingerprint: of the encoder whose vectors these are.
    """

    def __init__(self, tracks: pa.Table, encoder_fingerprint: str, vectors: faiss.Index | None = None) -> None:
        self.encoder_fingerprint = encoder_fingerprint
        self._tracks = tracks.combine_chunks()
        has_cover = pc.is_valid(tracks["cover_embedding"])
        self._rows = np.flatnonzero(has_cover.to_numpy())  # FAISS id -> row of the table
        self._ids = tracks["song_id"].to_pylist()
        self._row_of = {song_id: row for row, song_id in enumerate(self._ids)}
        self._vectors = build_flat(_matrix(tracks["cover_embedding"].drop_null())) if vectors is None else vectors
        if self._vectors.ntotal != len(self._rows):
            raise BundleCorrupt(f"index holds {self.ntotal} vectors for {len(self._rows)} covers; build it again")

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
        k = min(k, self.ntotal if allowed is None else int(np.count_nonzero(allowed)))
        if k == 0 or len(embeddings) == 0:
            return [[] for _ in embeddings]
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        scores, found = self._vectors.search(np.ascontiguousarray(embeddings), k, params=parameters)
        return [self._matches(*row) for row in zip(scores, found, strict=True)]

    def get(self, song_id: str) -> IndexedTrack:
        """Raises: UnknownTrack."""
        row = self._row(song_id)
        values = self._tracks.slice(row, 1).to_pylist()[0]
        sides = (values["song_embedding"], values["cover_embedding"])
        song, cover = (None if side is None else np.asarray(side, np.float32) for side in sides)
        return IndexedTrack(self._track(row), values["cover_uri"], song, cover)

    def cover_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D]. Raises: UnknownTrack, also for a track without a cover."""
        rows = [self._row(song_id) for song_id in song_ids]
        column = self._tracks["cover_embedding"].take(pa.array(rows, pa.int64()))
        if column.null_count:
            missing = [s for s, valid in zip(song_ids, column.is_valid().to_pylist(), strict=True) if not valid]
            raise UnknownTrack(f"track '{missing[0]}' has no cover in this index")
        return _matrix(column) if rows else np.zeros((0, self.embed_dim), np.float32)

    def serialized(self) -> bytes:
        """The FAISS part, for a bundle."""
        return bytes(faiss.serialize_index(self._vectors))

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
    ) -> npt.NDArray[np.bool_] | None:
        """Which FAISS ids the filters leave, bool [ntotal], or None for all."""
        if not (song_ids or artists or genres):
            return None
        keep = np.ones(self.ntotal, bool)
        filters = (("song_id", song_ids, False), ("artist", artists, False), ("genre", genres, True))
        for column, values, wanted in filters:
            if values:
                among = pc.is_in(self._tracks[column], value_set=pa.array(list(values), pa.string())).to_numpy()
                keep &= among[self._rows] == wanted
        return keep

    def _matches(self, scores: Vectors, found: npt.NDArray[np.int64]) -> list[Match]:
        rows = self._rows[found]
        return [
            Match(rank=rank, score=min(float(score), 1.0), track=self._track(int(row)))  # rounding may exceed 1
            for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1)
        ]

    def _track(self, row: int) -> Track:
        return Track(**{name: self._tracks[name][row].as_py() for name in Track.model_fields})

    def _row(self, song_id: str) -> int:
        if song_id not in self._row_of:
            raise UnknownTrack(f"track '{song_id}' is not in this index of {len(self._ids):,} tracks")
        return self._row_of[song_id]


def build_flat(vectors: Vectors) -> faiss.Index:
    """Exact search over float32 [T, D]."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors))
    return index


def deserialize(data: bytes) -> faiss.Index:
    """Raises: BundleCorrupt."""
    try:
        return faiss.deserialize_index(np.frombuffer(data, np.uint8))
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise BundleCorrupt(f"the FAISS part of the index cannot be read ({reason}); build it again") from error


def _matrix(column: pa.ChunkedArray) -> Vectors:
    """A fixed-size-list column without nulls -> float32 [T, D]."""
    flat = column.combine_chunks()
    width = flat.type.list_size
    return np.asarray(flat.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(-1, width)
