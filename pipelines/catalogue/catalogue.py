"""The catalogue: tracks from a manifest or a folder of audio files, updated in a workspace.

Called again it asks the store what each object holds now, unless the manifest says so itself; what changed is written,
and a catalogue that stands as it would be written now stays untouched. Nothing is decoded here; whether a file can be
decoded is for the next stages to find out.
"""

import hashlib
import io
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from gatefold.config import Settings, SplitSettings
from gatefold.errors import InputError
from gatefold.index.row_lookup import in_chunks
from gatefold.names import normal_name
from gatefold.progress import OnProgress, silent
from gatefold.records import REJECTS, SPLITS, TRACKS, split_of
from gatefold.storage import leases, objects, tables
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.storage.contents.embedded_pictures import FRAGMENT
from gatefold.storage.leases import Lease
from gatefold.workspace import Workspace
from pipelines.catalogue import scanning
from pipelines.catalogue.etags import find_etags
from pipelines.catalogue.manifests import is_manifest, read_manifest
from pipelines.extraction.rejects import check_share, read_attempts, read_rejects
from pipelines.report import Report, while_held, write_report

STAGE = "catalogue"
_ROWS_PER_PART = 65_536
_ROWS_COMPARED = 250_000  # at once: the texts of all songs may be more than one array can hold
_IDENTITY = ("audio_uri", "cover_uri", "audio_etag", "cover_etag")
_CARRIED = "carried: "
"""Stands before the name of a column that the manifest carries, while it is beside our own."""
_NONE = pa.scalar(None, pa.string())
_FAULTS = pa.schema([("row", pa.int64()), ("column", pa.string()), ("uri", pa.string()), ("code", pa.string()),
                     ("message", pa.string())])
"""What is wrong with a row of the source: a fault in audio_uri costs the song, one in cover_uri only its cover."""


_Read: TypeAlias = tuple[pa.Table, pa.Table, dict[str, JsonValue]]
"""Rows, the faults found in them, and what else belongs in the report."""


def build_catalogue(settings: Settings, source: str, workspace: Workspace, on_progress: OnProgress = silent) -> Report:
    """Bring the workspace's catalogue in line with a manifest (.parquet, .csv, .jsonl, .ndjson) or a folder of audio.

    Raises: InvalidManifest naming row and value; RunInProgress; TooManyRejects, when all is done; storage errors.
    """
    with leases.hold(workspace.lease(STAGE)) as lease:
        report = _build(settings, objects.resolve(source), workspace, lease, on_progress)
        write_report(workspace, report)
    songs = report.done + report.skipped
    check_share(workspace, STAGE, report.rejected, songs, settings.batch.max_reject_share)
    return report


def _build(settings: Settings, uri: str, workspace: Workspace, lease: Lease, on_progress: OnProgress) -> Report:
    began = time.monotonic()
    numbered = is_manifest(uri)
    read = _from_manifest if numbered else _from_folder
    rows, faults, more = read(uri, workspace, while_held(lease, on_progress))
    count, faulty = rows.num_rows, rows["song_id"].take(faults["row"])
    tracks = _finished(_without_faulty(rows, faults), settings.split)
    del rows  # of millions of songs, texts take most of the memory
    change = _change(tracks, workspace)
    lease.check()
    _replace_if_changed(workspace, uri, tracks, change)
    _write_faults(workspace, faulty, faults, numbered=numbered)
    return Report(
        stage=STAGE,
        done=count - change.untouched,
        skipped=change.untouched,
        rejected=faults.num_rows,
        seconds=time.monotonic() - began,
        details={"source": uri, "songs": tracks.num_rows, "added": change.added, "updated": change.updated,
                 "removed": change.removed, **_counts(tracks), **more},
    )


def with_splits(tracks: pa.Table, shares: SplitSettings) -> pa.ChunkedArray:
    """The split of every track: the given one, else `records.split_of`, asked once for each artist, album or song."""
    split, open_rows = tracks["split"], pc.is_null(tracks["split"])
    for column in ("artist", "album", "song_id"):
        keys = tracks[column]
        wanted = pc.and_(open_rows, pc.is_valid(keys))
        names = pc.unique(keys.filter(wanted))
        chosen = (_split_of_name(shares, column, name) for some in in_chunks(names) for name in some)
        made = pc.take(pa.array(chosen, pa.string()), pc.index_in(keys, value_set=names))
        found = pc.and_(wanted, pc.is_valid(made))
        split = pc.if_else(found, made, split)
        open_rows = pc.and_not(open_rows, found)
    return split


def _split_of_name(shares: SplitSettings, column: str, name: str) -> str | None:
    if column != "song_id" and not normal_name(name):
        return None  # white space, as some tags have it
    artist, album = (name if column == kind else None for kind in ("artist", "album"))
    # the id counts only where neither is given
    return split_of(shares, artist=artist, album=album, song_id=name)


def _from_folder(uri: str, workspace: Workspace, on_progress: OnProgress) -> _Read:
    songs, passed_over = scanning.scan(uri)
    standing = None if catalogues.schema(workspace) is None else catalogues.read_tracks(workspace)
    tracks, faults, unreadable = scanning.tagged(songs, standing, on_progress)
    by_reason: JsonValue = {reason: dict(counts) for reason, counts in passed_over.items()}
    return tracks, faults, {"passed_over": by_reason, "tags_unreadable": unreadable}


def _from_manifest(uri: str, _: Workspace, on_progress: OnProgress) -> _Read:
    """The rows with canonical uris and present etags."""
    rows = read_manifest(uri)
    # so that a column may be called as any of ours
    rows = rows.rename_columns([name if name in TRACKS.names else _CARRIED + name for name in rows.column_names])
    rows = rows.add_column(0, "row", pa.array(np.arange(rows.num_rows)))
    faults = []
    for column in ("audio_uri", "cover_uri"):
        resolved, refused = _resolved(rows, column, objects.parent(uri))
        rows = _with(rows, column, resolved)
        faults.append(refused)
    rows, missing = _with_etags(rows, on_progress)
    all_faults = pa.concat_tables([*faults, missing])
    of_audio = pc.equal(all_faults["column"], "audio_uri")
    songless = pc.is_in(all_faults["row"], value_set=all_faults["row"].filter(of_audio))
    # a song without its audio is one fault, whatever becomes of its cover
    return rows, all_faults.filter(pc.or_(of_audio, pc.invert(songless))).sort_by("row"), {}


def _resolved(rows: pa.Table, column: str, base: str) -> tuple[pa.ChunkedArray, pa.Table]:
    """A column of uris made canonical, null where that fails, and the faults."""
    made: list[pa.Array] = []
    faults = []
    for some in in_chunks(rows[column]):
        uris: list[str | None] = []
        for value in some:
            try:
                uris.append(value and _canonical(value, base))
            except InputError as error:
                row = sum(map(len, made)) + len(uris)
                said = {"row": row, "column": column, "uri": value, "code": error.code, "message": error.message}
                faults.append(said)
                uris.append(None)
        made.append(pa.array(uris, pa.string()))
    resolved = pa.chunked_array(made, pa.string())
    same = rows[column].equals(resolved)  # as of most manifests: then there need not be two of it
    return rows[column] if same else resolved, pa.Table.from_pylist(faults, schema=_FAULTS)


def _canonical(value: str, base: str) -> str:
    inside = FRAGMENT if value.endswith(FRAGMENT) else ""  # of an audio file, whose own '#' would be encoded
    return objects.resolve(value.removesuffix(FRAGMENT), base) + inside


def _with_etags(rows: pa.Table, on_progress: OnProgress) -> tuple[pa.Table, pa.Table]:
    """The rows with the present etags of what they name, and faults for what is not there; given etags are believed."""
    # large: the uris of all songs may be more than one array of plain strings can hold
    audio, covers = (rows[name].cast(pa.large_string()) for name in ("audio_uri", "cover_uri"))
    covers = pc.replace_substring_regex(covers, pattern=f"{FRAGMENT}$", replacement="")
    given = pc.if_else(pc.is_valid(covers), rows["cover_etag"], _NONE)
    beside = pc.if_else(pc.equal(covers, audio), rows["audio_etag"], _NONE)
    places = {"audio": (audio, rows["audio_etag"]), "cover": (covers, pc.coalesce(given, beside))}
    unknown = [chunk for uris, etags in places.values() for chunk in uris.filter(pc.is_null(etags)).chunks]
    found = find_etags(pc.unique(pa.chunked_array(unknown, pa.large_string()).drop_null()), on_progress)
    faults = []
    for side, (uris, etags) in places.items():
        at = pc.index_in(uris, value_set=found["uri"])
        rows = _with(rows, f"{side}_etag", pc.coalesce(etags, found["etag"].take(at)))
        columns = (rows["row"], pa.repeat(f"{side}_uri", rows.num_rows), rows[f"{side}_uri"])
        answers = pa.table([*columns, found["code"].take(at), found["message"].take(at)], schema=_FAULTS)
        faults.append(answers.filter(pc.and_(pc.is_null(etags), pc.is_valid(answers["code"]))))
    return rows, pa.concat_tables(faults)


def _with(rows: pa.Table, column: str, values: pa.ChunkedArray) -> pa.Table:
    return rows.set_column(rows.column_names.index(column), column, values)


def _without_faulty(rows: pa.Table, faults: pa.Table) -> pa.Table:
    if not faults.num_rows:
        return rows.drop_columns(["row"])
    songless, uncovered = (
        pc.is_in(rows["row"], value_set=faults.filter(pc.equal(faults["column"], name))["row"].combine_chunks())
        for name in ("audio_uri", "cover_uri")
    )
    for column in ("cover_uri", "cover_etag"):
        rows = _with(rows, column, pc.if_else(uncovered, _NONE, rows[column]))
    return rows.filter(pc.invert(songless)).drop_columns(["row"])


def _finished(rows: pa.Table, shares: SplitSettings) -> pa.Table:
    """The table as it is kept: the catalogue's own columns in their order, then those that were carried."""
    rows = _with(rows, "split", with_splits(rows, shares))
    carried = [field.remove_metadata() for field in rows.schema if field.name not in TRACKS.names]
    own = pa.schema([*TRACKS, *(field.with_name(field.name.removeprefix(_CARRIED)) for field in carried)])
    return rows.select([*TRACKS.names, *(field.name for field in carried)]).rename_columns(own.names).cast(own)


def _replace_if_changed(workspace: Workspace, source: str, tracks: pa.Table, change: "_Change") -> None:
    current = catalogues.current(workspace)
    if current is None or current.source != source or not change.nothing:
        digest = _Digest()
        pq.write_table(tracks, pa.PythonFile(digest, mode="w"))
        fingerprint = digest.sha256.hexdigest()[:16]
        catalogues.replace(workspace, Catalogue(fingerprint, tracks.num_rows, source), tracks, _ROWS_PER_PART)


class _Digest(io.RawIOBase):
    """A file whose content is digested as it is written, and kept nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sha256 = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return memoryview(data).nbytes


@dataclass(frozen=True)
class _Change:
    """How the tracks differ from those of before; `untouched` ones name the same objects, of the same content.

    `nothing`: that tables are the same, in order and types too.
    """

    added: int = 0
    updated: int = 0
    removed: int = 0
    untouched: int = 0
    nothing: bool = False


def _change(tracks: pa.Table, workspace: Workspace) -> _Change:
    """The standing catalogue is read a column at a time: all of it would take as much memory again as the new one."""
    schema = catalogues.schema(workspace)
    if schema is None:
        return _Change(added=tracks.num_rows)

    def standing(name: str) -> pa.ChunkedArray:
        return catalogues.read_tracks(workspace, [name])[name]

    before = standing("song_id")
    in_order = tracks["song_id"].equals(before)
    differing = [
        name for name in schema.names
        if name in tracks.column_names and not (in_order and tracks[name].equals(standing(name)))
    ]  # fmt: skip
    if not differing and tracks.schema.equals(schema):
        return _Change(untouched=tracks.num_rows, nothing=True)
    place = pc.index_in(tracks["song_id"], value_set=before.combine_chunks())
    updated, touched = np.zeros(tracks.num_rows, np.bool_), np.zeros(tracks.num_rows, np.bool_)
    for name in differing:
        if pa.types.is_string(tracks[name].type):
            differs = _differing(tracks[name], standing(name), place)
            updated |= differs
            touched |= differs & (name in _IDENTITY)
    kept = len(place) - place.null_count
    return _Change(
        added=tracks.num_rows - kept,
        updated=int(updated.sum()),
        removed=len(before) - kept,
        untouched=kept - int(touched.sum()),
    )


def _differing(after: pa.ChunkedArray, before: pa.ChunkedArray, place: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """For each row, whether it stood before (at `place`) and with another value."""
    differs = np.zeros(len(after), np.bool_)
    for start in range(0, len(after), _ROWS_COMPARED):
        at = place.slice(start, _ROWS_COMPARED)
        one = pc.fill_null(after.slice(start, _ROWS_COMPARED), "\0")
        other = pc.fill_null(before.cast(pa.string()).take(at), "\0")
        unlike = pc.and_(pc.is_valid(at), pc.not_equal(one, other))
        differs[start : start + len(at)] = unlike.to_numpy()
    return differs


def _write_faults(workspace: Workspace, song_ids: pa.ChunkedArray, faults: pa.Table, *, numbered: bool) -> None:
    """The rejects of this run, in the place of those of the run before."""
    if not faults.num_rows:
        objects.delete_tree(workspace.rejects(STAGE))
        return
    count = faults.num_rows
    where = pa.repeat("", count)
    if numbered:
        numbers = pc.add(faults["row"], 1).cast(pa.string())
        where = pc.binary_join_element_wise("row ", numbers, ", ", faults["column"], ": ", "")
    columns = {
        "song_id": song_ids,
        "uri": faults["uri"],
        "stage": pa.repeat(STAGE, count),
        "code": faults["code"],
        "message": pc.binary_join_element_wise(where, faults["message"], ""),
        "attempt": pc.add(_tried(workspace, song_ids), 1),
        "at": pa.repeat(pa.scalar(datetime.now(UTC), REJECTS.field("at").type), count),
        "etag": pa.nulls(count, pa.string()),
        "size_bytes": pa.nulls(count, pa.int64()),
    }
    tables.write_part(workspace.rejects(STAGE), "rejects", pa.table(columns).cast(REJECTS))


def _tried(workspace: Workspace, song_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """How often each was a reject before: as the last run has it, else as it was remembered when that was removed."""
    last, earlier = read_rejects(workspace, STAGE), read_attempts(workspace, STAGE)
    found = last["attempt"].take(pc.index_in(song_ids, value_set=last["song_id"].combine_chunks()))
    names = pa.array(list(earlier), pa.string())
    counts = pa.array(list(earlier.values()), pa.int32()).take(pc.index_in(song_ids, value_set=names))
    return pc.coalesce(found, counts, pa.scalar(0, pa.int32()))


def _counts(tracks: pa.Table) -> dict[str, JsonValue]:
    covered = len(tracks) - tracks["cover_uri"].null_count
    return {"covers": covered, **{split: pc.sum(pc.equal(tracks["split"], split)).as_py() or 0 for split in SPLITS}}
