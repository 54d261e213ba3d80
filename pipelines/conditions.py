"""What a generator is conditioned on: a song's embedding, and those of the nearest covers that are not by its artist.

For a training they are searched once and stored as a table, so that its readers need no index.

Shape legend: B = songs, K = neighbours, D = width of the joint space.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from gatefold.errors import StageMissing
from gatefold.records import Match, neighbour_schema
from gatefold.retrieval import CoverIndex, Filters, IndexedTrack
from gatefold.storage import objects, tables
from gatefold.storage.indexes import load_index
from pipelines.report import silent
from pipelines.rows import map_rows

Vectors = npt.NDArray[np.float32]

_SONGS_PER_SEARCH = 512
_SONGS_PER_PART = 4_096
_SPARE = 32
"""matches beyond K that are asked for: of the song itself and its artist, which are left out"""


@dataclass(frozen=True)
class Conditions:
    """Of several songs: song float32 [B, D] and neighbours float32 [B, K, D], nearest first, with their song_ids."""

    song: Vectors
    neighbours: Vectors
    neighbour_ids: list[list[str]]


def conditions_of(index: CoverIndex, song_ids: Sequence[str], neighbours: int) -> Conditions:
    """Leaves out each song's own cover and its artist's others: a new song would not find them in the catalogue either.

    Raises: StageMissing when the catalogue has too few other artists, or a song has no embedding.
    """
    songs: list[Vectors] = []
    ids: list[list[str]] = []
    for start in range(0, len(song_ids), _SONGS_PER_SEARCH):
        known = [index.get(song_id) for song_id in song_ids[start : start + _SONGS_PER_SEARCH]]
        embeddings = np.stack([_embedding_of(one) for one in known])
        fingerprint = index.encoder_fingerprint
        found = index.search(embeddings, neighbours + _SPARE, encoder_fingerprint=fingerprint)
        for one, matches in zip(known, found, strict=True):
            ids.append(_others(index, one, matches, neighbours))
        songs.append(embeddings)
    flat = index.cover_embeddings([song_id for row in ids for song_id in row])
    return Conditions(np.concatenate(songs), flat.reshape(len(ids), neighbours, -1), ids)


def _embedding_of(known: IndexedTrack) -> Vectors:
    if known.song_embedding is None:
        raise StageMissing(f"track '{known.track.song_id}' has no song embedding; see `gatefold rejects list`")
    return known.song_embedding


def _others(index: CoverIndex, song: IndexedTrack, matches: Sequence[Match], neighbours: int) -> list[str]:
    """song_ids of the nearest covers by others; searched for alone where too few of `matches` are."""
    own, artist = song.track.song_id, song.track.artist
    left = [m.track.song_id for m in matches if m.track.song_id != own and (not artist or m.track.artist != artist)]
    if len(left) < neighbours:
        filters = Filters(frozenset({own}), frozenset({artist} if artist else ()))
        query = _embedding_of(song)[None]
        alone = index.search(query, neighbours, encoder_fingerprint=index.encoder_fingerprint, filters=filters)[0]
        left = [match.track.song_id for match in alone]
    if len(left) < neighbours:
        raise StageMissing(f"only {len(left)} covers by other artists than '{own}' has, {neighbours} are needed")
    return left[:neighbours]


def store_conditions(folder: str, index_uri: str, song_ids: Sequence[str], neighbours: int) -> None:
    """A table of `records.neighbour_schema` with a row for each of these songs; parts that are there already stay.

    The songs are searched for in parallel, in parts of a few thousand. A part is named by a digest of its songs, so a
    search that was interrupted goes on where it stopped, and other songs make other parts.

    Args:
        folder: of this index and this number of neighbours alone.

    Raises: StageMissing as `conditions_of` does.
    """
    store = partial(_store_part, folder, index_uri, neighbours)
    map_rows(pa.table({"song_id": pa.array(song_ids, pa.string())}), store, _SONGS_PER_PART, silent)


def _store_part(folder: str, index_uri: str, neighbours: int, songs: pa.Table) -> pa.Table:
    ids = songs["song_id"].to_pylist()
    name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    if not objects.exists(objects.join(folder, f"{name}.parquet")):
        conditions = conditions_of(_index(index_uri), ids, neighbours)
        schema = neighbour_schema(conditions.song.shape[1], neighbours)
        columns = {
            "song_id": pa.array(ids),
            "song_embedding": tables.tensor_column([conditions.song], schema.field("song_embedding").type),
            "neighbour_ids": pa.array(conditions.neighbour_ids, schema.field("neighbour_ids").type),
            "neighbours": tables.tensor_column([conditions.neighbours], schema.field("neighbours").type),
        }
        tables.write_part(folder, name, pa.table(columns))
    return pa.table({"songs": [len(ids)]})


def read_conditions(folder: str, song_ids: Sequence[str]) -> tuple[Vectors, Vectors]:
    """Of these songs, in their order, embeddings float32 [B, D] and neighbours float32 [B, K, D], as they were stored.

    Raises: StageMissing for a song that is not stored.
    """
    rows = tables.read_rows(folder, song_ids, ["song_id", "song_embedding", "neighbours"], stage="train-generator")
    row_of = {song_id: row for row, song_id in enumerate(rows["song_id"].to_pylist())}
    missing = [song_id for song_id in song_ids if song_id not in row_of]
    if missing:
        raise StageMissing(f"'{folder}' has no neighbours of track '{missing[0]}'; run `gatefold train-generator`")
    order = [row_of[song_id] for song_id in song_ids]
    return tables.tensors(rows["song_embedding"])[order], tables.tensors(rows["neighbours"])[order]


@lru_cache(maxsize=1)
def _index(uri: str) -> CoverIndex:
    """Loaded once in each process that searches, part after part."""
    return load_index(uri)
