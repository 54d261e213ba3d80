"""A folder of music as a catalogue: its audio files, what their tags say, the covers that lie beside or inside them.

A file keeps its id, its path inside the folder, for as long as it stays where it is.
"""

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import InputError, InvalidManifest, NotFound, StorageDenied
from gatefold.progress import OnProgress
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents.embedded_pictures import FRAGMENT
from pipelines.catalogue.folders import AUDIO, ROWS, Listing, list_files
from pipelines.catalogue.manifests import SUFFIXES
from pipelines.catalogue.tags import read_tags
from pipelines.row_mapper import map_rows

_STEMS = ("cover", "folder", "front", "albumart")
"""Names of pictures that show the cover of the album beside them, the better first; the last may go on as it likes."""
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
DISC = re.compile(r"(cd|dis[ck]|vinyl|lp|side)[ ._-]*([0-9]{1,2}|[a-d])\b.*", re.IGNORECASE)
"""Folders of one disc of an album, whose cover may lie in the folder above."""
_FILES_PER_TASK = 64
_READERS = 8
_TEXTS = ("title", "artist", "album", "genre")
_TAGS = pa.schema([*((name, pa.string()) for name in _TEXTS), ("has_picture", pa.bool_()),
                   ("picture_decodes", pa.bool_()), ("unreadable", pa.bool_()), ("code", pa.string()),
                   ("message", pa.string())])
PassedOver: TypeAlias = dict[str, dict[str, int]]
"""Files by reason and suffix."""
_Cover: TypeAlias = tuple[int, str, str | None]
"""Rank, uri and etag."""


def list_songs(folder: str) -> pa.Table:
    """The audio files of a folder, sorted by path: `scan` without what was passed over."""
    return scan(folder)[0]


def scan(folder: str) -> tuple[pa.Table, PassedOver]:
    """The audio files of a folder, sorted by path, and what was passed over.

    Returns: row, song_id, audio_uri, audio_etag, and album_cover with album_etag, null where no cover lies beside.
    Raises: InvalidManifest when there is no audio file; StorageDenied when the folder may not be read.
    """
    listing = list_files(folder)
    songs, covers = _songs_and_covers(listing)
    if not songs.num_rows:
        raise InvalidManifest(
            f"source '{folder}' is no manifest ({', '.join(SUFFIXES)}) and no folder with audio ({', '.join(AUDIO)})"
        )
    columns = {"song_id": songs["path"], "audio_uri": songs["uri"], "audio_etag": songs["etag"]}
    table = pa.table(columns | _covers_beside(songs["path"], covers))
    passed_over = {reason: dict(sorted(counts.items())) for reason, counts in sorted(listing.passed_over.items())}
    return table.add_column(0, "row", pa.array(range(songs.num_rows), pa.int64())), passed_over


def _songs_and_covers(listing: Listing) -> tuple[pa.Table, dict[str, _Cover]]:
    """The songs, and the best cover of each folder; all other files are passed over."""
    files = listing.take_files()
    is_song: list[pa.Array] = []
    covers: dict[str, _Cover] = {}
    for batch in files.to_batches(max_chunksize=ROWS):
        flags = []
        for path, uri, etag in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            name = path.rpartition("/")[2].lower()
            rank = cover_rank(name)
            flags.append(rank is None and name.endswith(AUDIO))
            if rank is not None:
                better = (rank, uri, etag)
                covers[_above(path)] = min(better, covers.get(_above(path), better))
            elif not flags[-1]:
                listing.pass_over("no suffix of a song", path)
        is_song.append(pa.array(flags, pa.bool_()))
    return _of_different_ids(files.filter(pa.chunked_array(is_song, pa.bool_())), listing), covers


def _of_different_ids(songs: pa.Table, listing: Listing) -> pa.Table:
    r"""The same but for a file whose name is no UTF-8, where another one is called what stands for it, `\xNN`."""
    if not pc.any(pc.match_substring(songs["path"], "\\x")).as_py():
        return songs
    paths = songs["path"].combine_chunks()
    is_first = pc.equal(pc.index_in(paths, value_set=paths), pa.array(range(len(paths)), pa.int32()))
    for path in paths.filter(pc.invert(is_first)).to_pylist():
        listing.pass_over("the path of another song", path)
    return songs.filter(is_first)


def _covers_beside(paths: pa.ChunkedArray, covers: Mapping[str, _Cover]) -> dict[str, pa.ChunkedArray]:
    """album_cover and album_etag of the songs at these paths; null where no cover lies beside."""
    found: dict[str, list[pa.Array]] = {"album_cover": [], "album_etag": []}
    for batch in pa.table({"path": paths}).to_batches(max_chunksize=ROWS):
        beside = [_cover_beside(path, covers) for path in batch["path"].to_pylist()]
        for name, place in (("album_cover", 1), ("album_etag", 2)):
            found[name].append(pa.array([cover and cover[place] for cover in beside], pa.string()))
    return {name: pa.chunked_array(parts, pa.string()) for name, parts in found.items()}


def cover_rank(name: str) -> int | None:
    """How good the name of a file, in lower case, is for a cover, 0 being best; None where it is none."""
    stem, dot, suffix = name.rpartition(".")
    if f"{dot}{suffix}" not in _PICTURES:
        return None
    place = next((place for place, known in enumerate(_STEMS) if stem == known), None)
    place = _STEMS.index("albumart") if stem.startswith("albumart") else place
    return None if place is None else place * len(_PICTURES) + _PICTURES.index(f"{dot}{suffix}")


def _cover_beside(path: str, covers: Mapping[str, _Cover]) -> _Cover | None:
    folder = _above(path)
    if folder not in covers and folder and DISC.fullmatch(folder.rpartition("/")[2]):
        folder = _above(folder)
    return covers.get(folder)


def _above(path: str) -> str:
    return path.rpartition("/")[0]


def tagged(songs: pa.Table, standing: pa.Table | None, on_progress: OnProgress) -> tuple[pa.Table, pa.Table, int]:
    """The songs with the columns of `records.TRACKS`, the faults found, and how many of those that were
    opened now have unreadable tags.

    Args:
        songs: from `list_songs`.
        standing: the tracks of the catalogue so far; a file that is there with the same etag is not opened again.
    """
    fresh = pc.fill_null(pc.invert(_stands(songs, standing)), True)
    opened = songs.filter(fresh)
    tags = map_rows(opened.select(["row", "audio_uri"]), _read_batch, _FILES_PER_TASK, on_progress)
    if standing is not None and opened.num_rows < songs.num_rows:
        tags = pa.concat_tables([tags, _remembered(songs.filter(pc.invert(fresh)), standing)])
    tags = tags.sort_by("row")
    inside = pc.binary_join_element_wise(songs["audio_uri"], FRAGMENT, "")
    some, good = (pc.fill_null(tags[name], False) for name in ("has_picture", "picture_decodes"))
    pictured = pc.or_(good, pc.and_(some, pc.is_null(songs["album_cover"])))  # a bad one alone becomes a reject
    found = {name: tags[name] for name in _TEXTS}
    found |= {name: songs[name] for name in ("song_id", "audio_uri", "audio_etag")}
    found["cover_uri"] = pc.if_else(pictured, inside, songs["album_cover"])
    found["cover_etag"] = pc.if_else(pictured, songs["audio_etag"], songs["album_etag"])
    found["split"] = pa.nulls(songs.num_rows, pa.string())
    tracks = pa.table({"row": songs["row"], **{name: found[name] for name in TRACKS.names}})
    bad = tags.filter(pc.is_valid(tags["code"]))
    faults = pa.table({"row": bad["row"], "column": pa.array(["audio_uri"] * bad.num_rows, pa.string()),
                       "uri": pc.take(songs["audio_uri"], bad["row"]), "code": bad["code"], "message": bad["message"]})
    return tracks, faults, pc.sum(tags["unreadable"]).as_py() or 0


def _read_batch(files: pa.Table) -> pa.Table:
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(_read_one, files["audio_uri"].to_pylist()))
    return pa.Table.from_pylist(found, schema=_TAGS).add_column(0, "row", files["row"])


def _read_one(uri: str) -> dict[str, object]:
    try:
        return asdict(read_tags(uri))
    except (InputError, NotFound) as error:
        return {"code": error.code, "message": error.message}
    except StorageDenied as error:
        if objects.local_path(uri) is None:  # every other object would fail alike
            raise
        return {"code": error.code, "message": error.message}


def _stands(songs: pa.Table, standing: pa.Table | None) -> pa.ChunkedArray:
    if standing is None or "audio_etag" not in standing.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(False), songs.num_rows)], pa.bool_())
    return pc.is_in(_identity(songs), value_set=_identity(standing).combine_chunks())


def _identity(tracks: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(tracks["song_id"], tracks["audio_uri"], tracks["audio_etag"], "\0")


def _remembered(songs: pa.Table, standing: pa.Table) -> pa.Table:
    """The tags of songs that are in the catalogue, in the columns of `_read_batch`."""
    tracks = standing.take(pc.index_in(songs["song_id"], value_set=standing["song_id"].combine_chunks()))
    inside = pc.fill_null(pc.ends_with(tracks["cover_uri"], FRAGMENT), False)
    none, readable = pa.nulls(songs.num_rows, pa.string()), pa.repeat(False, songs.num_rows)
    columns = [songs["row"], *(tracks[name] for name in _TEXTS), inside, inside, readable, none, none]
    return pa.table(columns, names=["row", *_TAGS.names])
