"""One group of songs at a time: its cover is made, and written where there is still none.

Every object is looked at again right before it is written, and replaced as a whole, only if it is still the one that
was read. The journal has a row before it is written, and the same as done after.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

import pyarrow as pa

from gatefold.errors import InputError, NotFound, StorageDenied, TooLarge
from gatefold.storage import objects
from gatefold.storage.leases import Lease
from pipelines.backfill.isolated import TagRequest, write_picture
from pipelines.backfill.journal import Journal, JournalRow, Run, sha256
from pipelines.backfill.making import MakeCover
from pipelines.backfill.patches import make_patch
from pipelines.backfill.songs import COVER_NAME, READ_ONLY, Group, Song, has_cover_beside, is_read_only

MAX_TAGGED_BYTES = 1 << 28
"""of a file whose tags are written: it is in memory a few times"""
CHANGED = "the file was changed by somebody else meanwhile"
COVERED = "it has a cover by now"
_OUTCOMES = pa.schema([("outcomes", pa.string())])


@dataclass(frozen=True)
class SongOutcome:
    """What became of a song."""

    song_id: str
    uri: str
    state: Literal["written", "left"]
    reason: str = ""


@dataclass(frozen=True)
class Writer:
    """The work of one run; it may be sent to other processes.

    Args:
        lease: of the run; nothing is written once it is lost.
        timeout_s: that writing the tags of a file may take.
    """

    run: Run
    journal: Journal
    lease: Lease
    make_cover: MakeCover
    timeout_s: float

    def __call__(self, groups: pa.Table) -> pa.Table:
        """A row for each of these groups: `outcomes`, as JSON."""
        done = [self.write(Group.from_json(text)) for text in groups["group"].to_pylist()]
        rows = [{"outcomes": json.dumps([asdict(one) for one in outcomes])} for outcomes in done]
        return pa.Table.from_pylist(rows, schema=_OUTCOMES)

    def write(self, group: Group) -> list[SongOutcome]:
        """What became of each song of a group. Raises: storage errors that are not about one object."""
        try:
            picture = self._picture(group)
        except (InputError, NotFound) as error:
            return [_left(song, error.message) for song in group.songs]
        match self.run.into:
            case "file":
                return list(self._beside(group, picture))
            case "tags":
                return [self._attempt(song, group, picture) for song in group.songs]
        return [self._named(song, group, picture) for song in group.songs]

    def _picture(self, group: Group) -> bytes:
        """The one of the journal, where the run made it before it was ended."""
        picture = self.journal.picture(group.key)
        if picture is None:
            picture = self.make_cover(group)
            self.lease.check()
            self.journal.put_picture(group.key, picture)
        return picture

    def _beside(self, group: Group, picture: bytes) -> Iterator[SongOutcome]:
        for folder in dict.fromkeys(objects.parent(song.uri) for song in group.songs):
            songs = [song for song in group.songs if objects.parent(song.uri) == folder]
            reason = self._put_beside(songs[0], objects.join(folder, COVER_NAME), group, picture)
            yield from (_left(song, reason) if reason else _written(song) for song in songs)

    def _put_beside(self, song: Song, uri: str, group: Group, picture: bytes) -> str:
        """Why no cover was put beside the songs; empty where it was."""
        row = JournalRow(song_id=song.song_id, group=group.key, uri=uri, kind="file", before=None,
                         after=sha256(picture), state="writing")  # fmt: skip
        if has_cover_beside(song.uri):
            return COVERED
        try:
            self.journal.put(row)
            self.lease.check()
            if not objects.put_if_absent(uri, picture):
                self.journal.remove(row)
                return COVERED
        except (InputError, StorageDenied) as error:
            if objects.local_path(uri) is None and isinstance(error, StorageDenied):
                raise  # every other object would fail alike
            self.journal.remove(row)
            return error.message
        self.journal.put(row.model_copy(update={"state": "done"}))
        return ""

    def _attempt(self, song: Song, group: Group, picture: bytes) -> SongOutcome:
        try:
            reason = self._put_inside(song, group, picture)
        except (InputError, NotFound) as error:
            reason = error.message
        except StorageDenied as error:
            if objects.local_path(song.uri) is None:
                raise
            reason = error.message
        return _left(song, reason) if reason else _written(song)

    def _put_inside(self, song: Song, group: Group, picture: bytes) -> str:
        """Why no cover was put into the tags; empty where it was."""
        uri = _itself(song.uri)
        if is_read_only(uri):
            return READ_ONLY
        found = objects.stat(uri)
        if found.size_bytes > MAX_TAGGED_BYTES:
            raise TooLarge(f"'{uri}' has {found.size_bytes:,} bytes, limit {MAX_TAGGED_BYTES:,}; use --into file")
        data = objects.read(uri)
        changed = write_picture(TagRequest(data, picture, objects.name(uri)), self.timeout_s)
        if changed is None or has_cover_beside(song.uri):
            return COVERED
        etag = found.etag
        if etag is None or objects.stat(uri).etag != etag:
            return CHANGED
        row = JournalRow(song_id=song.song_id, group=group.key, uri=uri, kind="tags", before=sha256(data),
                         after=sha256(changed), state="writing")  # fmt: skip
        self.journal.put_original(row, make_patch(data, changed))
        self.journal.put(row)
        self.lease.check()
        try:
            replaced = objects.put_if_unchanged(uri, changed, etag)
        except (InputError, StorageDenied):
            self.journal.remove(row)
            raise
        if not replaced:
            self.journal.remove(row)
            return CHANGED
        self.journal.put(row.model_copy(update={"state": "done"}))
        return ""

    def _named(self, song: Song, group: Group, picture: bytes) -> SongOutcome:
        uri = self.journal.picture_uri(group.key)
        row = JournalRow(song_id=song.song_id, group=group.key, uri=uri, kind="manifest", before=None,
                         after=sha256(picture), state="done")  # fmt: skip
        self.journal.put(row)
        return _written(song)


def outcomes_of(table: pa.Table) -> list[SongOutcome]:
    """What the rows of a writer say."""
    return [SongOutcome(**one) for text in table["outcomes"].to_pylist() for one in json.loads(text)]


def _itself(uri: str) -> str:
    """A local file itself, where the uri is that of a link to it: a link is not replaced by a file."""
    path = objects.local_path(uri)
    return uri if path is None else objects.resolve(str(path.resolve()))


def _written(song: Song) -> SongOutcome:
    return SongOutcome(song.song_id, song.uri, "written")


def _left(song: Song, reason: str) -> SongOutcome:
    return replace(_written(song), state="left", reason=reason)
