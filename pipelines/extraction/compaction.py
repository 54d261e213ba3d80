"""Reconciling of a table's parts with the catalogue, and merging of small parts. One row or reject a song is left.

A stage that was killed, run twice, or run before the catalogue changed may have left rows too many; none is ever
missing for it, as parts are put whole. All here is by song_id and etag; what the other columns mean is not known. Only
the holder of the stage's lease may call what deletes.

    catalogue   song@etag: a@1 b@2 c@1 d@1
    part 1      a@1 b@1    ->  a@1        b has another etag now: extracted anew
    part 2      a@1 c@1    ->  c@1        a is in part 1
    part 3      x@1        ->  deleted    x left the catalogue
    `remove_stale` leaves a@1 | c@1; the stage adds b@2 d@1; then `compact`, where there are many small parts:
    [a] [c] [b d] ...      ->  [a b c d]  put under a name of its own, and then its pieces are deleted
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import SchemaMismatch
from gatefold.storage import objects, tables

_READERS = 32  # they wait for storage
_REWRITERS = 4  # they hold whole parts in memory
_FEW = 8
"""so many small parts may stay as they are"""
_KEY = ["song_id", "etag"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Part:
    """Songs of a part: how many it has, the first and last of their ids."""

    songs: int
    first: str
    last: str


def part_name(songs: pa.Table) -> str:
    """The name of the part for these songs, `song_id` and `etag` each: always the same for the same songs."""
    pairs = zip(songs["song_id"].to_pylist(), songs["etag"].to_pylist(), strict=True)
    said = "\n".join(f"{song_id}\0{etag}" for song_id, etag in sorted(pairs))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def present(folder: str, tracks: pa.Table) -> Mask:
    """bool [tracks]: whether the folder has a row of each track, made of its present etag.

    Args:
        folder: of the table's parts.
        tracks: has `song_id` and `etag`.

    Raises: SchemaMismatch for a part without one of these columns.
    """
    found = np.zeros(tracks.num_rows, np.bool_)
    uris = tables.parts(folder)
    if uris:
        places = _places(pa.concat_tables(_read_songs(uris)), tracks)
        found[places[places >= 0]] = True
    return found


def remove_stale(folder: str, tracks: pa.Table, claimed: Mask) -> dict[str, Part]:
    """Removes what is not of these tracks, of another etag, or claimed; the parts that are left, by name.

    Of rows of one song in several parts those of the first stay. A part is deleted, or replaced as a whole.

    Args:
        folder: of the table's parts.
        tracks: has `song_id` and `etag`.
        claimed: bool [tracks], whether a track needs no row here; becomes True where one is found.

    Raises: SchemaMismatch for a part without one of these columns.
    """
    uris = tables.parts(folder)
    if not uris:
        return {}
    songs = _read_songs(uris)
    keep = _first_of_each(_places(pa.concat_tables(songs), tracks), claimed)
    ends = np.cumsum([part.num_rows for part in songs])
    kept = [part.filter(pa.array(wanted)) for part, wanted in zip(songs, np.split(keep, ends[:-1]), strict=True)]
    with ThreadPoolExecutor(_REWRITERS) as pool:
        list(pool.map(_shrink, uris, songs, kept))
    return {name_of(uri): part_of(left) for uri, left in zip(uris, kept, strict=True) if left.num_rows}


def part_of(rows: pa.Table) -> Part:
    """What is noted of a part that has these rows, at least one."""
    ends = pc.min_max(rows["song_id"]).as_py()
    return Part(pc.count_distinct(rows["song_id"]).as_py(), ends["min"], ends["max"])


def compact(folder: str, parts: Mapping[str, Part], songs_per_part: int) -> dict[str, Part]:
    """Merges small parts, neighbours by song_id, into parts of about `songs_per_part` songs, where there are many.

    Returns: all parts by name, as they are then.

    What is merged is put before its pieces are deleted: a kill in between leaves doubles, which `remove_stale` removes.
    """
    small = sorted((part.first, name) for name, part in parts.items() if 2 * part.songs < songs_per_part)
    left = dict(parts)
    if len(small) > _FEW:
        groups = [g for g in _groups([name for _, name in small], parts, songs_per_part) if len(g) > 1]
        with ThreadPoolExecutor(_REWRITERS) as pool:
            merged = list(pool.map(lambda names: _merge(folder, names), groups))
        for names in groups:
            for name in names:
                del left[name]
        left.update(merged)
    return left


def _groups(names: Iterable[str], parts: Mapping[str, Part], songs_per_part: int) -> Iterator[list[str]]:
    group: list[str] = []
    songs = 0
    for name in names:
        if songs + parts[name].songs > songs_per_part:
            yield group
            group, songs = [], 0
        group.append(name)
        songs += parts[name].songs
    yield group


def _merge(folder: str, names: list[str]) -> tuple[str, Part]:
    """Name and songs of the part that takes the place of these."""
    uris = [objects.join(folder, f"{name}.parquet") for name in names]
    merged = pa.concat_tables([tables.read_part(uri) for uri in uris], promote_options="permissive")
    written = tables.write_part(folder, part_name(_distinct(merged)), merged)
    for uri in uris:
        if uri != written:  # a merged part of which `remove_stale` left some songs has the name of all of them
            objects.delete(uri)
    return name_of(written), part_of(merged)


def _read_songs(uris: list[str]) -> list[pa.Table]:
    """Of every part the distinct pairs of song_id and etag. Raises: SchemaMismatch for a part without either column."""

    def songs(uri: str) -> pa.Table:
        rows = tables.read_part(uri, _KEY)
        if missing := set(_KEY).difference(rows.column_names):
            raise SchemaMismatch(f"'{uri}' has no column {sorted(missing)}; delete its folder and run its stage again")
        return _distinct(rows)

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(songs, uris))


def _distinct(rows: pa.Table) -> pa.Table:
    etag = pc.fill_null(rows["etag"].cast(pa.string()), "")
    return pa.table({"song_id": rows["song_id"], "etag": etag}).group_by(_KEY, use_threads=False).aggregate([])


def _places(songs: pa.Table, tracks: pa.Table) -> npt.NDArray[np.int64]:
    """For each song the row of its track, or -1 where there is none of this id and etag."""
    found = pc.index_in(songs["song_id"], value_set=tracks["song_id"].combine_chunks())
    expected = tracks["etag"].take(found)
    same = pc.fill_null(pc.equal(songs["etag"], expected), fill_value=False)
    places: npt.NDArray[np.int64] = pc.if_else(same, found.cast(pa.int64()), -1).to_numpy()
    return places


def _first_of_each(places: npt.NDArray[np.int64], claimed: Mask) -> Mask:
    """Which songs stay: the first at each place that is not taken; then it is."""
    candidates = np.flatnonzero(places >= 0)
    candidates = candidates[~claimed[places[candidates]]]
    _, first = np.unique(places[candidates], return_index=True)
    keep = np.zeros(len(places), np.bool_)
    keep[candidates[first]] = True
    claimed[places[keep]] = True
    return keep


def _shrink(uri: str, songs: pa.Table, kept: pa.Table) -> None:
    if not kept.num_rows:
        objects.delete(uri)
    elif kept.num_rows < songs.num_rows:
        rows = tables.read_part(uri)
        wanted = pc.is_in(_joined(rows), value_set=_joined(kept).combine_chunks())
        tables.write_part(objects.parent(uri), name_of(uri), rows.filter(wanted))


def _joined(rows: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(rows["song_id"], pc.fill_null(rows["etag"].cast(pa.string()), ""), "\0")


def name_of(uri: str) -> str:
    """The name of the part at this uri."""
    return objects.name(uri).removesuffix(".parquet")
