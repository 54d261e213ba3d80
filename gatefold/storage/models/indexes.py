"""Index bundles: FAISS files, and Parquet tables of the tracks with their embeddings and metadata.

One of each, or one for each shard. A shard is a slice of the tracks in the order of their ids, and an index in itself.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import faiss
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from gatefold.errors import BundleCorrupt
from gatefold.index.retrieval import CoverIndex
from gatefold.index.tuning import IndexStats, TunedIndex
from gatefold.index.vectors import kind_of, open_mapped, save
from gatefold.storage.bundles import Bundle, FileEntry, open_bundle, publish, put_file

_VECTORS, _TRACKS = "covers.faiss", "tracks.parquet"
_STATS = "figures"
"""name of the statistics in a bundle"""


class Shard(BaseModel):
    """A slice of an index, as its bundle describes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    folder: str
    """of its two files in the bundle, with a slash at the end; empty for the only shard"""
    first_song_id: str
    """songs before it are in the shards before; empty in the first"""
    covers: int
    tracks: int
    stats: IndexStats = Field(alias=_STATS)


_SHARDS = TypeAdapter(list[Shard])


@dataclass(frozen=True)
class StoredShard:
    """A shard whose files are put, and no bundle yet."""

    shard: Shard
    files: Mapping[str, FileEntry]


def store_shard(uri: str, number: int, of: int, first_song_id: str, tracks: pa.Table, built: TunedIndex) -> StoredShard:
    """Puts the files of one shard where the bundle is to be published.

    Args:
        number, of: which of how many, from 0.
        tracks: METADATA, song_embedding and cover_embedding, in the order of their ids.
        built: of the covers there are, in the order of `tracks`.
    """
    folder = "" if of == 1 else f"shard-{number:03}/"
    shard = Shard(
        folder=folder,
        first_song_id=first_song_id,
        covers=built.stats.vectors,
        tracks=tracks.num_rows,
        stats=built.stats,
    )
    with _written(built.vectors, tracks) as files:
        return StoredShard(shard, {folder + name: put_file(uri, folder + name, path) for name, path in files.items()})


def publish_shards(
    uri: str,
    stored: Sequence[StoredShard],
    stats: IndexStats,
    *,
    encoder_fingerprint: str,
    version: str,
    lineage: Mapping[str, str],
) -> Bundle:
    """A bundle of kind "index", of all its shards in the order of their songs, that states the statistics of the
    whole."""
    shards = [part.shard for part in stored]
    files = {name: entry for part in stored for name, entry in part.files.items()}
    details = _details(encoder_fingerprint, sum(s.covers for s in shards), sum(s.tracks for s in shards), stats)
    if len(shards) > 1:
        details["shards"] = [shard.model_dump(by_alias=True) for shard in shards]
    return publish(uri, files, kind="index", version=version, lineage=lineage, details=details)


def publish_index(
    uri: str, index: CoverIndex, tracks: pa.Table, stats: IndexStats, *, version: str, lineage: Mapping[str, str]
) -> Bundle:
    """A bundle of kind "index", of a single shard, that states its statistics.

    Args:
        tracks: the table the index was made of.
        stats: what was measured of its vectors.
    """
    (vectors,) = index.shards
    details = _details(index.encoder_fingerprint, index.ntotal, tracks.num_rows, stats)
    with _written(vectors, tracks) as files:
        return publish(uri, files, kind="index", version=version, lineage=lineage, details=details)


def load_index(uri: str, shard: int | None = None, *, device: str = "cpu") -> CoverIndex:
    """The vectors are mapped from the local disk, where those of a store are fetched to: only what searches touch is
    read.

    Args:
        shard: its number, for that shard alone; all of them when None.
        device: that was granted.

    Raises: BundleNotFound, BundleCorrupt.
    """
    bundle = open_bundle(uri, "index")
    fingerprint = bundle.details.get("encoder_fingerprint")
    if not isinstance(fingerprint, str):
        raise BundleCorrupt(f"index '{uri}' does not name its encoder; build it again")
    shards = shards_of(bundle)
    chosen = shards if shard is None else [shards[shard]]
    with tempfile.TemporaryDirectory() as folder:  # what is mapped outlives it
        vectors = [_vectors(bundle, part, Path(folder)) for part in chosen]
        tracks = pa.concat_tables([_tracks(bundle, part, Path(folder)) for part in chosen])
    return CoverIndex(tracks, fingerprint, *vectors, device=device)


def shards_of(bundle: Bundle) -> list[Shard]:
    """The shards of an index bundle, in the order of their songs. Raises: BundleCorrupt."""
    stats = stats_of(bundle)
    details = bundle.details
    described = details.get("shards") or [
        {"folder": "", "first_song_id": "", "covers": stats.vectors, "tracks": details.get("tracks"),
         _STATS: stats}
    ]
    try:
        return _SHARDS.validate_python(described)
    except ValueError as error:
        raise BundleCorrupt(
            f"index '{bundle.uri}' does not say what shards it has ({error}); build it anew: `gatefold index`"
        ) from error


def stats_of(bundle: Bundle) -> IndexStats:
    """What an index bundle states. Raises: BundleCorrupt for one of an older release."""
    try:
        return IndexStats.model_validate(bundle.details.get(_STATS))
    except ValueError as error:
        raise BundleCorrupt(
            f"index '{bundle.uri}' does not state its kind and recall; build it anew: `gatefold index`"
        ) from error


def _on_disk(bundle: Bundle, name: str, folder: Path) -> Path:
    path = bundle.path(name)
    return bundle.fetch_file(name, folder) if path is None else path


def _tracks(bundle: Bundle, shard: Shard, folder: Path) -> pa.Table:
    return pq.read_table(_on_disk(bundle, shard.folder + _TRACKS, folder))


def _vectors(bundle: Bundle, shard: Shard, folder: Path) -> faiss.Index:
    vectors = open_mapped(str(_on_disk(bundle, shard.folder + _VECTORS, folder)))
    if kind_of(vectors) != shard.stats.kind:
        raise BundleCorrupt(
            f"index '{bundle.uri}' is of kind '{kind_of(vectors)}' and says '{shard.stats.kind}'; build it again"
        )
    return vectors


def _details(encoder_fingerprint: str, covers: int, tracks: int, stats: IndexStats) -> dict[str, object]:
    return {
        "encoder_fingerprint": encoder_fingerprint,
        "covers": covers,
        "tracks": tracks,
        _STATS: stats.model_dump(),
    }


@contextmanager
def _written(vectors: faiss.Index, tracks: pa.Table) -> Iterator[dict[str, Path]]:
    """The files of a shard by name, on the local disk for as long as they are put: beside the index itself they would
    take its memory twice."""
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / name for name in (_VECTORS, _TRACKS)}
        save(vectors, str(files[_VECTORS]))
        pq.write_table(tracks, files[_TRACKS], compression="zstd")
        yield files
