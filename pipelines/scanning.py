"""A folder of music as a catalogue: its audio files, what their tags say, the covers that lie beside or inside them.

A file keeps its id, its path inside the folder, for as long as it stays where it is.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import InputError, InvalidManifest, NotFound
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.pictures import FRAGMENT
from pipelines.manifests import SUFFIXES
from pipelines.report import OnProgress
from pipelines.rows import map_rows
from pipelines.tags import read_tags

AUDIO = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4", ".aac")
_COVERS = tuple(f"{stem}{suffix}" for stem in ("cover", "folder") for suffix in (".jpg", ".jpeg", ".png"))
_FILES_PER_TASK = 64
_READERS = 8
_TEXTS = ("title", "artist", "album", "genre")
_TAGS = pa.schema([*((name, pa.string()) for name in _TEXTS), ("has_picture", pa.bool_()), ("code", pa.string()),
                   ("message", pa.string())])


def list_songs(folder: str) -> pa.Table:
    """The audio files of a folder, sorted by uri.

    Returns: row, song_id, audio_uri, audio_etag, and album_cover with album_etag, null where no cover lies beside.
    Raises: InvalidManifest when there is no audio file.
    """
    songs: list[tuple[str, str, str | None]] = []
    covers: dict[str, tuple[int, str, str | None]] = {}
    for info in objects.list_objects(folder):
        name = objects.name(info.uri)
        if name.startswith("."):
            continue
        if name.lower() in _COVERS:
            better = (_COVERS.index(name.lower()), info.uri, info.etag)
            covers[objects.parent(info.uri)] = min(better, covers.get(objects.parent(info.uri), better))
        elif name.lower().endswith(AUDIO):
            songs.append((objects.relative(info.uri, folder), info.uri, info.etag))
    if not songs:
        raise InvalidManifest(
            f"source '{folder}' is no manifest ({', '.join(SUFFIXES)}) and no folder with audio ({', '.join(AUDIO)})"
        )
    ids, uris, etags = zip(*songs, strict=True)
    _, beside, marks = zip(*(covers.get(objects.parent(uri), (0, None, None)) for uri in uris), strict=True)
    columns = {"song_id": ids, "audio_uri": uris, "audio_etag": etags, "album_cover": beside, "album_etag": marks}
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    return table.add_column(0, "row", pa.array(range(len(ids)), pa.int64()))


def tagged(songs: pa.Table, standing: pa.Table | None, on_progress: OnProgress) -> tuple[pa.Table, pa.Table]:
    """The songs with the columns of `records.TRACKS`, and the faults found.

    Args:
        songs: from `list_songs`.
        standing: the tracks of the catalogue so far; a file that stands there with the same etag is not opened again.
    """
    fresh = pc.fill_null(pc.invert(_stands(songs, standing)), True)
    opened = songs.filter(fresh)
    tags = map_rows(opened.select(["row", "audio_uri"]), _read_batch, _FILES_PER_TASK, on_progress)
    if standing is not None and opened.num_rows < songs.num_rows:
        tags = pa.concat_tables([tags, _remembered(songs.filter(pc.invert(fresh)), standing)])
    tags = tags.sort_by("row")
    inside = pc.binary_join_element_wise(songs["audio_uri"], FRAGMENT, "")
    pictured = pc.fill_null(tags["has_picture"], False)
    found = {name: tags[name] for name in _TEXTS}
    found |= {name: songs[name] for name in ("song_id", "audio_uri", "audio_etag")}
    found["cover_uri"] = pc.if_else(pictured, inside, songs["album_cover"])
    found["cover_etag"] = pc.if_else(pictured, songs["audio_etag"], songs["album_etag"])
    found["split"] = pa.nulls(songs.num_rows, pa.string())
    tracks = pa.table({"row": songs["row"], **{name: found[name] for name in TRACKS.names}})
    bad = tags.filter(pc.is_valid(tags["code"]))
    faults = pa.table({"row": bad["row"], "column": pa.array(["audio_uri"] * bad.num_rows, pa.string()),
                       "uri": pc.take(songs["audio_uri"], bad["row"]), "code": bad["code"], "message": bad["message"]})
    return tracks, faults


def _read_batch(files: pa.Table) -> pa.Table:
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(_read_one, files["audio_uri"].to_pylist()))
    return pa.Table.from_pylist(found, schema=_TAGS).add_column(0, "row", files["row"])


def _read_one(uri: str) -> dict[str, object]:
    try:
        return asdict(read_tags(uri))
    except (InputError, NotFound) as error:
        return {"code": error.code, "message": error.message}


def _stands(songs: pa.Table, standing: pa.Table | None) -> pa.ChunkedArray:
    if standing is None or "audio_etag" not in standing.column_names:
        return pa.chunked_array([pa.array([False] * songs.num_rows)])
    return pc.is_in(_identity(songs), value_set=_identity(standing).combine_chunks())


def _identity(tracks: pa.Table) -> pa.ChunkedArray:
    return pc.binary_join_element_wise(tracks["song_id"], tracks["audio_uri"], tracks["audio_etag"], "\0")


def _remembered(songs: pa.Table, standing: pa.Table) -> pa.Table:
    """The tags of songs that stand in the catalogue, in the columns of `_read_batch`."""
    tracks = standing.take(pc.index_in(songs["song_id"], value_set=standing["song_id"].combine_chunks()))
    inside = pc.fill_null(pc.ends_with(tracks["cover_uri"], FRAGMENT), False)
    none = pa.nulls(songs.num_rows, pa.string())
    columns = [songs["row"], *(tracks[name] for name in _TEXTS), inside, none, none]
    return pa.table(columns, names=["row", *_TAGS.names])
