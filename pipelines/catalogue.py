"""The catalogue: which songs there are, from a manifest or a folder of audio files, brought up to date in a workspace.

Called again it asks the store what each object holds now, unless the manifest says so itself; what changed is written,
and a catalogue that stands as it would be written now stays untouched. Nothing is decoded here; whether a file can be
heard or seen is for the next stages to find out.
"""

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

from gatefold.config import Settings, SplitSettings
from gatefold.errors import InputError, StageMissing
from gatefold.records import SPLITS, TRACKS, split_of
from gatefold.storage import catalogues, leases, objects
from gatefold.storage.catalogues import Catalogue
from gatefold.storage.leases import Lease
from gatefold.storage.pictures import FRAGMENT
from gatefold.workspace import Workspace
from pipelines import scanning
from pipelines.etags import find_etags
from pipelines.manifests import is_manifest, read_manifest
from pipelines.quarantine import Reject, check_share, read_attempts, read_rejects, write_rejects
from pipelines.report import OnProgress, Report, silent, while_held, write_report

STAGE = "catalogue"
_ROWS_PER_PART = 65_536
_ROWS_COMPARED = 1_000_000  # at once: the texts of all songs may be more than one array can hold
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
    standing = _standing(workspace)
    numbered = is_manifest(uri)
    read = _from_manifest if numbered else _from_folder
    rows, faults, more = read(uri, standing, while_held(lease, on_progress))
    tracks = _finished(_without_faulty(rows, faults), settings.split)
    change = _change(tracks, standing)
    lease.check()
    _replace_if_changed(workspace, uri, tracks, standing)
    _write_faults(workspace, rows, faults, numbered=numbered)
    return Report(
        stage=STAGE,
        done=rows.num_rows - change.untouched,
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
        sides = pa.array([_side_of(shares, column, name) for name in names.to_pylist()], pa.string())
        made = pc.take(sides, pc.index_in(keys, value_set=names))
        split = pc.if_else(wanted, made, split)
        open_rows = pc.and_not(open_rows, wanted)
    return split


def _side_of(shares: SplitSettings, column: str, name: str) -> str:
    artist, album = (name if column == kind else None for kind in ("artist", "album"))
    return split_of(shares, artist=artist, album=album, song_id=name)


def _from_folder(uri: str, standing: pa.Table | None, on_progress: OnProgress) -> _Read:
    songs, passed_over = scanning.scan(uri)
    tracks, faults, unreadable = scanning.tagged(songs, standing, on_progress)
    by_reason: JsonValue = {reason: dict(counts) for reason, counts in passed_over.items()}
    return tracks, faults, {"passed_over": by_reason, "tags_unreadable": unreadable}


def _from_manifest(uri: str, _: pa.Table | None, on_progress: OnProgress) -> _Read:
    """The rows with canonical uris and present etags."""
    rows = read_manifest(uri)
    # so that a column may be called as any of ours
    rows = rows.rename_columns([name if name in TRACKS.names else _CARRIED + name for name in rows.column_names])
    rows = rows.add_column(0, "row", pa.array(range(rows.num_rows), pa.int64()))
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


def _resolved(rows: pa.Table, column: str, base: str) -> tuple[pa.Array, pa.Table]:
    """A column of uris made canonical, null where that fails, and the faults."""
    made: list[str | None] = []
    faults = []
    for row, value in enumerate(rows[column].to_pylist()):
        try:
            made.append(value and _canonical(value, base))
        except InputError as error:
            made.append(None)
            faults.append({"row": row, "column": column, "uri": value, "code": error.code, "message": error.message})
    return pa.array(made, pa.string()), pa.Table.from_pylist(faults, schema=_FAULTS)


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


def _standing(workspace: Workspace) -> pa.Table | None:
    try:
        return catalogues.read_tracks(workspace)
    except StageMissing:
        return None


def _replace_if_changed(workspace: Workspace, source: str, tracks: pa.Table, standing: pa.Table | None) -> None:
    current = catalogues.current(workspace)
    if current is None or standing is None or current.source != source or not tracks.equals(standing):
        sink = pa.BufferOutputStream()
        pq.write_table(tracks, sink)
        fingerprint = hashlib.sha256(sink.getvalue()).hexdigest()[:16]
        catalogues.replace(workspace, Catalogue(fingerprint, tracks.num_rows, source), tracks, _ROWS_PER_PART)


@dataclass(frozen=True)
class _Change:
    """How the tracks differ from those of before; `untouched` ones name the same objects, of the same content."""

    added: int = 0
    updated: int = 0
    removed: int = 0
    untouched: int = 0


def _change(tracks: pa.Table, standing: pa.Table | None) -> _Change:
    if standing is None:
        return _Change(added=tracks.num_rows)
    if tracks.equals(standing):
        return _Change(untouched=tracks.num_rows)
    texts = [name for name in tracks.column_names if pa.types.is_string(tracks[name].type)]
    texts = [name for name in texts if name in standing.column_names]
    place = pc.index_in(tracks["song_id"], value_set=standing["song_id"])
    updated = touched = 0
    for start in range(0, tracks.num_rows, _ROWS_COMPARED):
        at = place.slice(start, _ROWS_COMPARED)
        after = tracks.slice(start, _ROWS_COMPARED).filter(pc.is_valid(at))
        before = standing.take(at.drop_null())
        updated += _count_differing(after, before, texts)
        touched += _count_differing(after, before, [name for name in _IDENTITY if name in texts])
    kept = len(place) - place.null_count
    return _Change(tracks.num_rows - kept, updated, standing.num_rows - kept, kept - touched)


def _count_differing(after: pa.Table, before: pa.Table, columns: list[str]) -> int:
    """Rows, paired by position, that differ in any of these columns."""
    differing = pa.chunked_array([pa.array([False] * after.num_rows, pa.bool_())])
    for name in columns:
        one, other = (pc.fill_null(table[name].cast(pa.string()), "\0") for table in (after, before))
        differing = pc.or_(differing, pc.not_equal(one, other))
    return int(pc.sum(differing).as_py() or 0)


def _write_faults(workspace: Workspace, rows: pa.Table, faults: pa.Table, *, numbered: bool) -> None:
    """The rejects of this run, in the place of those of the run before."""
    at = datetime.now(timezone.utc)
    last = read_rejects(workspace, STAGE)
    counts = zip(last["song_id"].to_pylist(), last["attempt"].to_pylist(), strict=True)
    tried = read_attempts(workspace, STAGE) | dict(counts)
    rejects = []
    for fault, song_id in zip(faults.to_pylist(), rows["song_id"].take(faults["row"]).to_pylist(), strict=True):
        where = f"row {fault['row'] + 1}, {fault['column']}: " if numbered else ""
        attempt = tried.get(song_id, 0) + 1
        rejects.append(Reject(song_id, fault["uri"], STAGE, fault["code"], where + fault["message"], attempt, at))
    if write_rejects(workspace, STAGE, "rejects", rejects) is None:
        objects.delete_tree(workspace.rejects(STAGE))


def _counts(tracks: pa.Table) -> dict[str, JsonValue]:
    covered = len(tracks) - tracks["cover_uri"].null_count
    return {"covers": covered, **{split: pc.sum(pc.equal(tracks["split"], split)).as_py() or 0 for split in SPLITS}}
