"""Which songs of a source have no cover, and which of them get the same one.

Songs of one album in one folder are one group, for which one cover is made; a song whose tags name no album is a group
of its own. A song has a cover where there is a picture in its tags, decodable or not, one beside it by a name that
counts for an album, or one in its manifest.
"""

import hashlib
import json
import stat
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import InputError
from gatefold.names import normal_name
from gatefold.progress import OnProgress
from gatefold.records import TRACKS
from gatefold.storage import objects
from pipelines.catalogue.folders import ROWS
from pipelines.catalogue.manifests import is_manifest, read_manifest
from pipelines.catalogue.scanning import DISC, cover_rank, scan, tagged

Into = Literal["file", "tags", "manifest"]
COVER_NAME = "cover.jpg"
_SEVERAL = f"songs of several albums share this folder, to which no {COVER_NAME} would belong; use --into tags"
READ_ONLY = "the file is read-only"
_MANY = 2


@dataclass(frozen=True)
class Song:
    """A song without a cover."""

    song_id: str
    uri: str
    artist: str | None


@dataclass(frozen=True)
class Group:
    """Songs that get the same cover."""

    key: str
    """a hash of where they lie and of their album, the same in every run"""
    album: str | None
    songs: tuple[Song, ...]

    def to_json(self) -> str:
        """All of it, as `from_json` reads it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Group":
        """The group that `to_json` wrote."""
        values = json.loads(text)
        return cls(values["key"], values["album"], tuple(Song(**song) for song in values["songs"]))


@dataclass(frozen=True)
class Left:
    """A song without a cover that is left as it is, and why."""

    song_id: str
    uri: str
    reason: str


@dataclass(frozen=True)
class BackfillPlan:
    """What is to be done for a source."""

    source: str
    groups: list[Group]
    left: list[Left]
    rows: pa.Table
    """the source's songs as a manifest"""
    songs: int
    covered: int
    """songs that have a cover"""


@dataclass
class _Found:
    """The groups of a source, also those that have a cover, and the folders that each lies in."""

    groups: dict[str, list[Song]] = field(default_factory=lambda: defaultdict(list))
    albums: dict[str, str | None] = field(default_factory=dict)
    keys_of_folder: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """the first `_MANY` of each: whether there are several is all that is asked"""


def make_plan(source: str, into: Into, on_progress: OnProgress) -> BackfillPlan:
    """What a backfill of this folder, prefix or manifest would do. Nothing is written.

    Raises: InvalidManifest; storage errors.
    """
    uri = objects.resolve(source)
    tracks, left = _tracks_of_manifest(uri, on_progress) if is_manifest(uri) else _tracks_of_folder(uri, on_progress)
    found = _Found()
    unusable = {one.song_id for one in left}
    names = ("song_id", "audio_uri", "cover_uri", "artist", "album")
    for song_id, audio_uri, cover_uri, artist, album in _rows(tracks, *names):
        key = _key(song_id, audio_uri, album)
        in_folder = found.keys_of_folder[objects.parent(audio_uri)]
        if len(in_folder) < _MANY:
            in_folder.add(key)
        if cover_uri is None and song_id not in unusable:
            found.groups[key].append(Song(song_id, audio_uri, artist))
            found.albums[key] = album
    groups = []
    for key, songs in found.groups.items():
        reasons = {song.song_id: _reason_against(song.uri, into, found) for song in songs}
        left += [Left(song.song_id, song.uri, why) for song in songs if (why := reasons[song.song_id])]
        kept = tuple(song for song in songs if not reasons[song.song_id])
        if kept:
            groups.append(Group(key, found.albums[key], kept))
    count = sum(len(group.songs) for group in groups)
    return BackfillPlan(uri, groups, left, tracks, tracks.num_rows, tracks.num_rows - count - len(left))


def _rows(tracks: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    """These columns of each song; a large catalogue is never as a whole in Python objects."""
    for batch in tracks.select(names).to_batches(max_chunksize=ROWS):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _key(song_id: str, audio_uri: str, album: str | None) -> str:
    name = normal_name(album)
    parts = ("album", _album_folder(audio_uri), name) if name else ("song", audio_uri, song_id)
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def _album_folder(audio_uri: str) -> str:
    """The folder of a song; of one in a folder of one disc, the folder above."""
    folder = objects.parent(audio_uri)
    return objects.parent(folder) if DISC.fullmatch(objects.name(folder)) else folder


def _reason_against(uri: str, into: Into, found: _Found) -> str | None:
    if into == "file" and len(found.keys_of_folder[objects.parent(uri)]) >= _MANY:
        return _SEVERAL
    return READ_ONLY if into == "tags" and is_read_only(uri) else None


def is_read_only(uri: str) -> bool:
    """Whether nobody may write to a local file; of a stored object, its store says so when it is written."""
    path = objects.local_path(uri)
    return path is not None and path.exists() and not path.stat().st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH)


def _cover_beside(audio_uri: str) -> str | None:
    try:
        return f"{objects.parent(audio_uri)}/{COVER_NAME}" if has_cover_beside(audio_uri) else None
    except InputError:  # of its folder; the song itself is refused when it is opened
        return None


def has_cover_beside(audio_uri: str) -> bool:
    """Whether a picture that counts for an album lies beside a song at this moment."""
    return any(_covers_in(folder) for folder in dict.fromkeys((objects.parent(audio_uri), _album_folder(audio_uri))))


def _covers_in(folder: str) -> bool:
    return any(cover_rank(objects.name(info.uri).lower()) is not None for info in objects.list_folder(folder))


def _tracks_of_folder(uri: str, on_progress: OnProgress) -> tuple[pa.Table, list[Left]]:
    return _tagged(scan(uri)[0], on_progress)


def _tracks_of_manifest(uri: str, on_progress: OnProgress) -> tuple[pa.Table, list[Left]]:
    """What the manifest says, completed by the tags of the files that it says have no cover."""
    base = objects.parent(uri)
    rows = read_manifest(uri)
    left: list[Left] = []

    def resolved(song_id: str, value: str) -> str:
        try:
            return objects.resolve(value, base)
        except InputError as error:
            left.append(Left(song_id, value, error.message))
            return value

    audio = pa.chunked_array(
        [
            pa.array(map(resolved, *(column.to_pylist() for column in batch.columns)), pa.string())
            for batch in rows.select(["song_id", "audio_uri"]).to_batches(max_chunksize=ROWS)
        ],
        pa.string(),
    )
    rows = rows.set_column(rows.column_names.index("audio_uri"), "audio_uri", audio)
    unusable = pa.array([one.song_id for one in left], pa.string())
    open_rows = pc.and_(pc.is_null(rows["cover_uri"]), pc.invert(pc.is_in(rows["song_id"], value_set=unusable)))
    asked = rows.filter(open_rows)
    beside = [_cover_beside(one) for one in asked["audio_uri"].to_pylist()]
    none = pa.nulls(asked.num_rows, pa.string())
    songs = pa.table({"row": pa.array(range(asked.num_rows), pa.int64()), "song_id": asked["song_id"],
                      "audio_uri": asked["audio_uri"], "audio_etag": none, "album_cover": pa.array(beside, pa.string()),
                      "album_etag": none})  # fmt: skip
    tracks, faulty = _tagged(songs, on_progress)
    at = pc.index_in(rows["song_id"], value_set=tracks["song_id"].combine_chunks())
    for name in ("cover_uri", "title", "artist", "album", "genre"):
        known = pc.coalesce(rows[name], tracks[name].take(at))
        rows = rows.set_column(rows.column_names.index(name), name, known)
    return rows, left + faulty


def _tagged(songs: pa.Table, on_progress: OnProgress) -> tuple[pa.Table, list[Left]]:
    tracks, faults, _ = tagged(songs, None, on_progress)
    ids = songs["song_id"].to_pylist()
    left = [Left(ids[fault["row"]], fault["uri"], fault["message"]) for fault in faults.to_pylist()]
    return tracks.select(TRACKS.names), left


def without(plan: BackfillPlan, done: Callable[[Song], bool]) -> BackfillPlan:
    """The plan without the songs for which this says that they are done."""
    groups = []
    for group in plan.groups:
        kept = tuple(song for song in group.songs if not done(song))
        if kept:
            groups.append(Group(group.key, group.album, kept))
    count = sum(len(group.songs) for group in groups)
    return BackfillPlan(plan.source, groups, plan.left, plan.rows, plan.songs, plan.songs - count - len(plan.left))
