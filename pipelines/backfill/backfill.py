"""Backfill: a new cover for every song or album of a source that has none, and the way back.

One run at a time in a workspace. A run that was ended is continued by the next one for the same source, and what its
journal says was being written is looked at first. Ray Data spreads the groups of songs; nothing is scheduled here.
"""

import io
import math
import time
from collections import Counter
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pydantic import JsonValue

from gatefold.config import Settings
from gatefold.errors import NotFound
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.contents import releases
from gatefold.storage.leases import Lease
from gatefold.workspace import Workspace
from pipelines.backfill import songs as songs_of_source
from pipelines.backfill.journal import Journal, JournalRow, Run, new_run, open_run, runs, sha256
from pipelines.backfill.making import MakeCover, ReleaseCovers
from pipelines.backfill.patches import apply_patch
from pipelines.backfill.songs import BackfillPlan, Into, Left, make_plan
from pipelines.backfill.writing import SongOutcome, Writer, outcomes_of
from pipelines.devices import gpus
from pipelines.report import Report, while_held, write_report
from pipelines.row_mapper import map_rows

STAGE, UNDO = "backfill", "backfill-undo"
DEFAULT_SIZE = 1000
"""pixels a side"""
_TASKS_PER_WORKER = 4
_MOST_PER_TASK = 32
_SHOWN = 1_000
"""songs that a report names"""
MakerOf = Callable[[Run], MakeCover]


def preview(source: str, workspace: Workspace, into: Into, on_progress: OnProgress = silent) -> BackfillPlan:
    """What `backfill` would do now; nothing is written. Raises: as `make_plan`."""
    return _open_songs(make_plan(source, into, on_progress), workspace, into)


def backfill(
    settings: Settings,
    source: str,
    workspace: Workspace,
    on_progress: OnProgress = silent,
    *,
    into: Into,
    size: int = DEFAULT_SIZE,
    novelty: float | None = None,
    maker_of: MakerOf | None = None,
) -> Report:
    """Makes and writes the covers that are missing.

    Args:
        size: pixels a side; a run that is continued has its own.
        maker_of: what makes the covers of a run; the active release where absent.

    Raises: RunInProgress; BundleNotFound where no release is active; storage errors, after which the same call goes on.
    """
    began = time.monotonic()
    with leases.hold(workspace.lease(STAGE)) as lease:
        uri = objects.resolve(source)
        run = open_run(workspace, uri, into)
        if run is not None:
            settle(Journal(workspace, run.run_id))
        plan = preview(source, workspace, into)
        outcomes: list[SongOutcome] = []
        if plan.groups:
            if run is None:
                version = releases.current(workspace).version
                run, _ = new_run(workspace, uri, into, release=version, size=size, novelty=novelty)
            maker = (maker_of or _release_covers(settings, workspace))(run)
            timeout_s = settings.batch.song_timeout_s
            writer = Writer(run, Journal(workspace, run.run_id), lease, maker, timeout_s)
            outcomes = _write(plan, writer, while_held(lease, on_progress))
        lease.check()
        if run is not None:
            _finish(run, workspace, plan, lease)
        report = _report(run, plan, outcomes, time.monotonic() - began, workspace)
        write_report(workspace, report)
    return report


def undo(workspace: Workspace, run_id: str, on_progress: OnProgress = silent) -> Report:
    """Takes back what a run wrote: every object is as it was, byte for byte, but those that were changed since.

    Raises: NotFound for a run that there is not; RunInProgress; storage errors, after which the same call goes on.
    """
    began = time.monotonic()
    with leases.hold(workspace.lease(STAGE)) as lease:
        journal = Journal(workspace, run_id)
        run = journal.read()
        settle(journal)
        rows = list(journal.rows())
        left: list[Left] = []
        watch = while_held(lease, on_progress)
        for number, row in enumerate(rows, start=1):
            lease.check()
            reason = "" if row.state == "undone" else _undo_row(journal, row)
            if reason and row.state == "done":  # else it never was what the run would have written
                left.append(Left(row.song_id, row.uri, reason))
            watch(number, len(rows))
        if run.into == "manifest":
            objects.delete(journal.manifest_uri)
        if not left:
            journal.write(run.model_copy(update={"state": "undone"}))
        details: dict[str, JsonValue] = {"run": run_id, "source": run.source, "left": _named(left)}
        report = Report(stage=UNDO, done=len(rows) - len(left), skipped=0, rejected=len(left),
                        seconds=time.monotonic() - began, details=details)  # fmt: skip
        write_report(workspace, report)
    return report


def settle(journal: Journal) -> None:
    """Marks as done what was being written when a run was ended, and was written. The other rows stay: a worker that
    outlived its driver may be about to write, and the row is what undoes it."""
    for row in journal.rows():
        if row.state == "writing" and _digest(row.uri) == row.after:
            journal.put(row.model_copy(update={"state": "done"}))


def _digest(uri: str) -> str | None:
    try:
        return sha256(objects.read(uri))
    except NotFound:
        return None


def _undo_row(journal: Journal, row: JournalRow) -> str:
    """Why an object was not put back; empty where it is as it was before the run."""
    if row.kind != "manifest":
        try:
            etag = objects.stat(row.uri).etag
            data = objects.read(row.uri)
        except NotFound:
            if row.before is not None:
                return "the file is gone"
            etag, data = None, b""
        if etag is not None and sha256(data) != row.before:
            if sha256(data) != row.after:
                return "the file was changed since"
            if row.before is None:
                objects.delete(row.uri)
            elif not objects.put_if_unchanged(row.uri, apply_patch(journal.original(row), data), etag):
                return "the file was changed since"
    journal.put(row.model_copy(update={"state": "undone"}))
    return ""


def _write(plan: BackfillPlan, writer: Writer, on_progress: OnProgress) -> list[SongOutcome]:
    table = pa.table({"group": pa.array([group.to_json() for group in plan.groups], pa.string())})
    if not ray.is_initialized():
        return outcomes_of(map_rows(table, writer, max(1, table.num_rows), on_progress))
    workers = gpus() or max(1, int(ray.cluster_resources().get("CPU", 1)))
    per_task = max(1, min(_MOST_PER_TASK, math.ceil(table.num_rows / (workers * _TASKS_PER_WORKER))))
    return outcomes_of(map_rows(table, writer, per_task, on_progress, num_gpus=min(1, gpus())))


def _release_covers(settings: Settings, workspace: Workspace) -> MakerOf:
    generator, originality = settings.generator.model_dump_json(), settings.originality.model_dump_json()

    def maker_of(run: Run) -> MakeCover:
        timeout_s = settings.batch.song_timeout_s
        return ReleaseCovers(workspace, run.release, generator, originality, run.size, run.novelty, timeout_s)

    return maker_of


def _open_songs(plan: BackfillPlan, workspace: Workspace, into: Into) -> BackfillPlan:
    """Without the songs that an earlier manifest has: the source itself does not show them."""
    if into != "manifest":
        return plan
    known = _named_before(workspace, plan.source)
    return songs_of_source.without(plan, lambda song: song.song_id in known)


def _named_before(workspace: Workspace, source: str) -> dict[str, str]:
    """Covers by song_id that runs into a manifest made for this source."""
    found: dict[str, str] = {}
    for run in runs(workspace):
        if (run.source, run.into) == (source, "manifest") and run.state != "undone":
            found |= {row.song_id: row.uri for row in Journal(workspace, run.run_id).rows() if row.state == "done"}
    return found


def _finish(run: Run, workspace: Workspace, plan: BackfillPlan, lease: Lease) -> None:
    journal = Journal(workspace, run.run_id)
    if run.into == "manifest":
        covers = _named_before(workspace, plan.source)
        ids = plan.rows["song_id"].to_pylist()
        made = pa.array([covers.get(song_id) for song_id in ids], pa.string())
        at = plan.rows.column_names.index("cover_uri")
        rows = plan.rows.set_column(at, "cover_uri", pc.coalesce(plan.rows["cover_uri"], made))
        sink = io.BytesIO()
        pq.write_table(rows, sink)
        lease.check()
        objects.put(journal.manifest_uri, sink.getvalue())
    journal.write(run.model_copy(update={"state": "finished"}))


def _report(
    run: Run | None, plan: BackfillPlan, outcomes: list[SongOutcome], seconds: float, workspace: Workspace
) -> Report:
    late = [Left(one.song_id, one.uri, one.reason) for one in outcomes if one.state == "left"]
    left = plan.left + late
    written = len(outcomes) - len(late)
    details: dict[str, JsonValue] = {
        "run": None if run is None else run.run_id,
        "source": plan.source,
        "songs": plan.songs,
        "written": written,
        "covered": plan.covered,
        "left_by_reason": dict(Counter(one.reason for one in left).most_common(_SHOWN)),
        "left": _named(left),
    }
    if run is not None and run.into == "manifest":
        details["manifest"] = Journal(workspace, run.run_id).manifest_uri
    return Report(
        stage=STAGE, done=written, skipped=plan.covered, rejected=len(left), seconds=seconds, details=details
    )


def _named(left: list[Left]) -> list[JsonValue]:
    return [{"song_id": one.song_id, "uri": one.uri, "reason": one.reason} for one in left[:_SHOWN]]
