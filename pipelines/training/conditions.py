"""Conditions of a generator: a song's embedding, and those of the nearest covers that are not by its artist.

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
from gatefold.generator.sources import ANY, SourceRule, sources_of
from gatefold.index.interface import Index
from gatefold.progress import silent
from gatefold.records import neighbour_schema
from gatefold.storage import objects, tables
from gatefold.storage.models.indexes import load_index
from pipelines.row_mapper import map_rows

Vectors = npt.NDArray[np.float32]

_SONGS_PER_PART = 4_096


@dataclass(frozen=True)
class Conditions:
    """Of several songs: song float32 [B, D] and neighbours float32 [B, K, D], nearest first, with their song_ids."""

    song: Vectors
    neighbours: Vectors
    neighbour_ids: list[list[str]]


def conditions_of(index: Index, song_ids: Sequence[str], neighbours: int, rule: SourceRule = ANY) -> Conditions:
    """Of songs of the index, with the nearest covers that may be their sources.

    Raises: StageMissing when there are fewer than `neighbours` for a song.
    """
    ids = []
    for song_id, matches in zip(song_ids, sources_of(index, song_ids, neighbours, rule), strict=True):
        if len(matches) < neighbours:
            raise StageMissing(
                f"only {len(matches)} covers may be sources for '{song_id}', {neighbours} are needed: not its own nor "
                "its artist's, and only those that may_be_source and generator.sources allow"
            )
        ids.append([match.track.song_id for match in matches])
    songs = index.song_embeddings(song_ids)
    flat = index.cover_embeddings([song_id for row in ids for song_id in row])
    return Conditions(songs, flat.reshape(len(ids), neighbours, -1), ids)


def store_conditions(
    folder: str, index_uri: str, song_ids: pa.Array, neighbours: int, rule: SourceRule = ANY
) -> None:
    """A table of `records.neighbour_schema` with a row for each of these songs; parts that are there already stay.

    The songs are searched for in parallel, in parts of a few thousand. A part is named by a digest of its songs, so a
    search that was interrupted goes on where it stopped, and other songs make other parts.

    Args:
        folder: of this index, number of neighbours and rule alone.
        song_ids: sorted.

    Raises: StageMissing as `conditions_of` does.
    """
    store = partial(_store_part, folder, index_uri, neighbours, rule)
    tables.invalidate(folder)
    made = map_rows(pa.table({"song_id": song_ids}), store, _SONGS_PER_PART, silent)
    tables.record(folder, {part["name"]: (part["first"], part["last"]) for part in made.to_pylist()})


def _store_part(folder: str, index_uri: str, neighbours: int, rule: SourceRule, songs: pa.Table) -> pa.Table:
    ids = songs["song_id"].to_pylist()
    name = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    if not objects.exists(objects.join(folder, f"{name}.parquet")):
        conditions = conditions_of(index_in_process(index_uri), ids, neighbours, rule)
        schema = neighbour_schema(conditions.song.shape[1], neighbours)
        columns = {
            "song_id": pa.array(ids),
            "song_embedding": tables.tensor_column([conditions.song], schema.field("song_embedding").type),
            "neighbour_ids": pa.array(conditions.neighbour_ids, schema.field("neighbour_ids").type),
            "neighbours": tables.tensor_column([conditions.neighbours], schema.field("neighbours").type),
        }
        tables.write_part(folder, name, pa.table(columns))
    return pa.table({"name": [name], "first": [min(ids)], "last": [max(ids)]})


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
def index_in_process(uri: str) -> Index:
    """Loaded once in each process that searches, part after part."""
    return load_index(uri)
