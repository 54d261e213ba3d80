"""Search for the covers nearest to an embedding, by inner products of unit vectors (so scores are cosines).

The vectors may lie in shards, which are searched apart; the answer is that of the whole. Where they are searched
approximately (vectors.py), it still answers with k covers wherever the filters leave k. The scores are true cosines,
the same bits alone or among other queries, in one shard or several: the table of tracks has every vector.

An index knows which encoder made its vectors and refuses another's: vectors of two encoders are both unit length and
both meaningless to each other, and the wrong answers would look like results. Knows nothing of files or of Ray.

Shape legend: B = queries, T = tracks, D = width of the joint space.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import cast

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import BundleCorrupt, InputError, UnknownTrack, WrongModel
from gatefold.index.interface import ALL, Filters, IndexedTrack, MatchColumns
from gatefold.index.row_lookup import RowLookup, in_chunks
from gatefold.index.tuning import DEPTH
from gatefold.index.vectors import (
    GpuCopy,
    Ids,
    IndexKind,
    Mask,
    Vectors,
    build,
    cosines,
    kind_of,
    merge,
    on_gpu,
    search,
    stored,
)
from gatefold.names import NAMED, normal_name
from gatefold.records import MAY_BE_SOURCE, Match, Track

METADATA = ("song_id", "title", "artist", "album", "genre", "cover_uri")
_NO_LABELS = ("song_id", "title", "cover_uri", "song_embedding", "cover_embedding")
"""columns whose values are nearly unique"""
BRUTE_FORCE_MAX = 20_000
"""allowed vectors up to which comparing with each is faster than searching for them"""
TIE_MARGIN = 32
"""neighbours beyond k that an exact search looks at: those as near as the last, as songs of one album are"""
_ROUNDING = 1e-5
"""more than FAISS and `cosines` may differ by"""


@dataclass(frozen=True)
class _Shard:
    """Vectors of the covers from `start` to before `stop`."""

    vectors: faiss.Index
    kind: IndexKind
    start: int
    stop: int
    gpu: GpuCopy | None
    stored: Vectors | None

    def search(self, queries: Vectors, k: int, allowed: Mask | None, scale: float) -> Ids:
        """On the GPU where there is one; but no filter works there, and no other search parameters than the index's
        own."""
        if allowed is None and scale == 1:
            return cast(Ids, (self.gpu or self.vectors).search(queries, k)[1])
        return search(self.vectors, queries, k, allowed=allowed, scale=scale)[1]


class CoverIndex:
    """Covers of a catalogue, searchable by song or cover embedding.

    Args:
        tracks: one row a song: METADATA, further columns of text to filter by, song_embedding and cover_embedding (null
            where there is none).
        encoder_fingerprint: of the encoder whose vectors these are.
        shards: FAISS indexes of the covers there are, in row order, one behind the other; without any, a flat one is
            built from `tracks`.
        device: that was granted; on a GPU, searches without filters run there.
    """

    def __init__(
        self, tracks: pa.Table, encoder_fingerprint: str, *shards: faiss.Index, device: str = "cpu"
    ) -> None:
        self.encoder_fingerprint = encoder_fingerprint
        self._tracks = tracks.combine_chunks()
        has_cover = pc.is_valid(tracks["cover_embedding"])
        self._rows = np.flatnonzero(has_cover.to_numpy())  # FAISS id -> row of the table
        self._covers = _slots(tracks["cover_embedding"])  # by row of the table
        self._named = {name: self._tracks[name].combine_chunks() for name in Track.model_fields}
        self._row_of = RowLookup(self._tracks["song_id"])
        named = [column for column in tracks.column_names if column not in _NO_LABELS]
        self._labels = {column: _Labels(tracks[column], self._rows, column in NAMED) for column in named}
        self.shards = shards or (build(self._covers[self._rows], "flat"),)
        stops = np.cumsum([shard.ntotal for shard in self.shards]).tolist()
        self._shards = [
            _Shard(shard, kind_of(shard), stop - shard.ntotal, stop, on_gpu(shard, device), stored(shard))
            for shard, stop in zip(self.shards, stops, strict=True)
        ]
        widths = sorted({int(shard.d) for shard in self.shards})
        if (self.ntotal, widths) != (len(self._rows), [self.embed_dim]):
            raise BundleCorrupt(
                f"index holds {self.ntotal} vectors for {len(self._rows)} covers, {widths} wide for {self.embed_dim}; "
                "build it again"
            )

    @property
    def ntotal(self) -> int:
        """covers."""
        return self._shards[-1].stop

    @property
    def embed_dim(self) -> int:
        """D, width of the embeddings."""
        return int(self._covers.shape[1])

    def search(
        self,
        embeddings: Vectors,
        k: int,
        *,
        encoder_fingerprint: str,
        filters: Filters = ALL,
    ) -> list[list[Match]]:
        """The k nearest covers of each of B queries, best first; fewer only where the filters leave fewer.

        Args:
            embeddings: float32 [B, D], unit length.
            encoder_fingerprint: of the encoder that made the queries.

        Raises: WrongModel naming both fingerprints; InputError for a query that is not [B, D] or not finite, and for a
            filter by a column that is not there.
        """
        hits = self.search_columns(embeddings, k, encoder_fingerprint=encoder_fingerprint, filters=filters)
        return [hit.matches() for hit in hits]

    def search_columns(
        self, embeddings: Vectors, k: int, *, encoder_fingerprint: str, filters: Filters = ALL
    ) -> list[MatchColumns]:
        """`search`, its matches still in columns.

        Args:
            embeddings: float32 [B, D], unit length.

        Raises: as `search`.
        """
        self._check(embeddings, encoder_fingerprint)
        allowed = self._allowed(filters)
        scores, found = self.nearest(embeddings, k, allowed)
        tracks = self._columns(self._rows[found.ravel()])
        width = found.shape[1]
        return [
            MatchColumns(
                row.tolist(),
                {name: values[place * width : (place + 1) * width] for name, values in tracks.items()},
            )
            for place, row in enumerate(scores)
        ]

    def nearest(self, embeddings: Vectors, k: int, allowed: Mask | None = None) -> tuple[Vectors, Ids]:
        """Cosines and numbers of the nearest covers of each query, both [B, k], best first; covers count from 0 in the
        order of the tracks.

        Fewer than k only where there are no more, or the filters leave no more. Of equally near ones the lower number
        comes first.

        Args:
            embeddings: float32 [B, D].
            allowed: bool [ntotal], which covers may be found; None for all.
        """
        left = self.ntotal if allowed is None else int(np.count_nonzero(allowed))
        k = min(k, left)
        if k == 0 or len(embeddings) == 0:
            return np.zeros((len(embeddings), 0), np.float32), np.zeros((len(embeddings), 0), np.int64)
        queries = np.ascontiguousarray(embeddings, np.float32)
        pieces = [self._nearest_in(shard, queries, k, allowed) for shard in self._shards]
        return pieces[0] if len(pieces) == 1 else merge(pieces, k)

    def _nearest_in(self, shard: _Shard, queries: Vectors, k: int, allowed: Mask | None) -> tuple[Vectors, Ids]:
        """What `nearest` answers, of one shard."""
        within = None if allowed is None else allowed[shard.start : shard.stop]
        total = shard.stop - shard.start
        left = total if within is None else int(np.count_nonzero(within))
        k = min(k, left)
        if k == 0:
            return np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
        if shard.kind != "flat" and within is not None and left <= BRUTE_FORCE_MAX:
            return self._compare(queries, k, shard.start + np.flatnonzero(within))
        if shard.kind == "flat":
            found = shard.search(queries, min(k + TIE_MARGIN, left), within, 1.0)
        else:  # tuned for DEPTH among all: more answers, or rarer ones, lie deeper
            scale = max(1.0, k / DEPTH) * total / left
            found = shard.search(queries, k, within, scale)
        scores, ids = self._true(shard, queries, found)
        doubtful = found[:, -1] < 0  # those that were not found come last
        if shard.kind == "flat":
            if found.shape[1] < left:  # one that was not found may be as near as the last that was
                doubtful |= scores[:, -1] >= scores[:, k - 1] - _ROUNDING
            scores, ids = scores[:, :k], ids[:, :k]
        if np.count_nonzero(doubtful):
            among = np.arange(total) if within is None else np.flatnonzero(within)
            scores[doubtful], ids[doubtful] = self._compare(queries[doubtful], k, shard.start + among)
        return scores, ids

    def _true(self, shard: _Shard, queries: Vectors, found: Ids) -> tuple[Vectors, Ids]:
        """Cosines of these covers [B, K] of a shard, and the numbers of the covers in the index, in their order."""
        ids = found + shard.start
        if shard.stored is None:
            scores = cosines(queries, self._covers, self._rows[ids])
        else:  # where FAISS has just read them, so they are in the processor's cache
            scores = cosines(queries, shard.stored, found)
        unsorted = scores[:, 1:] >= scores[:, :-1]
        if np.count_nonzero(unsorted):  # seldom: FAISS has them in this order, but for its rounding and for ties
            rows = unsorted.any(axis=1)
            order = np.lexsort((ids[rows], -scores[rows]), axis=1)
            scores[rows] = np.take_along_axis(scores[rows], order, 1)
            ids[rows] = np.take_along_axis(ids[rows], order, 1)
        return scores, ids

    def get(self, song_id: str) -> IndexedTrack:
        """The track of this id, with the embeddings there are, float32 [D] each. Raises: UnknownTrack."""
        row = self._row(song_id)
        values = {name: self._tracks[name][row] for name in (*METADATA, "song_embedding", "cover_embedding")}
        sides = (values["song_embedding"].values, values["cover_embedding"].values)
        song, cover = (None if side is None else side.to_numpy() for side in sides)
        track = Track(**{name: values[name].as_py() for name in Track.model_fields})
        return IndexedTrack(track, values["cover_uri"].as_py(), song, cover)

    def song_embedding(self, song_id: str) -> Vectors:
        """float32 [D]. Raises: UnknownTrack, also for a track whose song has none."""
        embedding = self.get(song_id).song_embedding
        if embedding is None:
            raise UnknownTrack(f"track '{song_id}' has no song embedding; see `gatefold rejects list`")
        return embedding

    def song_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D]. Raises: UnknownTrack, also for a track whose song has none."""
        vectors = [self.song_embedding(song_id) for song_id in song_ids]
        return np.stack(vectors) if vectors else np.zeros((0, self.embed_dim), np.float32)

    def cover_embeddings(self, song_ids: Sequence[str]) -> Vectors:
        """float32 [len(song_ids), D]. Raises: UnknownTrack, also for a track without a cover."""
        rows = self._row_of.rows(list(song_ids))
        for number in np.flatnonzero(~np.isin(rows, self._rows)).tolist():
            self._row(song_ids[number])
            raise UnknownTrack(f"track '{song_ids[number]}' has no cover in this index")
        return self._covers[rows]

    def _compare(self, queries: Vectors, k: int, among: Ids) -> tuple[Vectors, Ids]:
        """The k nearest of these covers, exactly, as `nearest` has them; `among` has at least k."""
        rows = self._rows[among][None]
        nearest, found = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for place in range(len(queries)):
            scores = cosines(queries[place : place + 1], self._covers, rows)[0]
            as_near = np.flatnonzero(scores >= np.partition(scores, len(scores) - k)[len(scores) - k])
            best = as_near[np.lexsort((as_near, -scores[as_near]))[:k]]
            nearest[place], found[place] = scores[best], among[best]
        return nearest, found

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

    def _allowed(self, filters: Filters) -> Mask | None:
        """Which FAISS ids the filters leave, bool [ntotal], or None for all."""
        if filters == ALL:
            return None
        keep = np.ones(self.ntotal, bool)
        rows = self._row_of.rows(list(filters.exclude_song_ids))
        covered = np.intersect1d(rows, self._rows)  # -1, of one that is not here, is no row
        keep[np.searchsorted(self._rows, covered)] = False
        if filters.exclude_artists:
            keep &= ~self._labels["artist"].among(filters.exclude_artists)
        for column, values in filters.where:
            if column == MAY_BE_SOURCE and column not in self._labels:
                continue  # a manifest without it closes no cover
            if column not in self._labels:
                known = ", ".join(sorted(self._labels))
                raise InputError(f"where '{column[:80]}': this index can be filtered by {known}")
            keep &= self._labels[column].among(values)
        return keep

    def _columns(self, rows: Ids) -> dict[str, list[str | None]]:
        """What is known of the tracks in these rows, by field of Track."""
        places = pa.array(rows, pa.int64())
        return {name: self._named[name].take(places).to_pylist() for name in Track.model_fields}

    def _row(self, song_id: str) -> int:
        row = self._row_of.row(song_id)
        if row is None:
            raise UnknownTrack(f"track '{song_id[:80]}' is not in this index of {len(self._row_of):,} tracks")
        return row


class _Labels:
    """What a column of the table says of each cover, found fast."""

    def __init__(self, column: pa.ChunkedArray, rows: Ids, are_names: bool) -> None:
        encoded = column.dictionary_encode().combine_chunks()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)[rows]
        values = encoded.dictionary
        if are_names:  # several spellings of one name have one code
            spelt = [pa.array(map(normal_name, some), pa.large_string()) for some in in_chunks(values)]
            normal = pa.chunked_array(spelt, pa.large_string()).dictionary_encode().combine_chunks()
            codes = np.append(normal.indices.to_numpy(zero_copy_only=False), -1)[codes]
            values = normal.dictionary
        self._codes: npt.NDArray[np.int32] = codes
        self._are_names = are_names
        self._code_of = RowLookup(values)

    def among(self, values: Collection[str]) -> Mask:
        """bool [covers]: whose label is one of these."""
        codes = self._code_of.rows(list({normal_name(value) for value in values} if self._are_names else set(values)))
        codes = codes[codes >= 0]
        if len(codes) == 1:
            one: Mask = self._codes == codes[0]
            return one
        return np.isin(self._codes, codes)


def _slots(column: pa.ChunkedArray) -> Vectors:
    """A fixed-size-list column -> float32 [rows, D], without a copy; the values of a null are undefined."""
    lists = column.combine_chunks()
    width = lists.type.list_size
    flat = lists.values.to_numpy(zero_copy_only=False)[lists.offset * width : (lists.offset + len(lists)) * width]
    return np.asarray(flat, np.float32).reshape(-1, width)


def unit_columns(tracks: pa.Table) -> tuple[Vectors, Vectors]:
    """The covers and the songs of a table that have an embedding, float32 [T, D] and [S, D], in its order."""
    covers, songs = (_slots(tracks[f"{side}_embedding"].drop_null()) for side in ("cover", "song"))
    return covers, songs
