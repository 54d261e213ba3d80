"""Map the catalogue in blocks: tracks in, one Parquet part of rows and one of rejects out, whatever the stage does.

A block is the unit of work and of loss: its part appears whole or not at all, and a song whose row or reject exists is
not processed again, so a killed stage goes on where it stopped. Ray Data schedules the blocks; it carries only tracks
and counts.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from gatefold.config import BatchSettings
from gatefold.storage import tables
from gatefold.workspace import Workspace
from pipelines.quarantine import Reject, check_share, read_attempts, read_rejects, write_rejects
from pipelines.report import OnProgress, Report, write_report


@dataclass(frozen=True)
class Made:
    """What a mapper makes of the tracks of a block: every one of them is among the rows, the rejects or the postponed.

    `rows` are for the stage's table, but for their last column `etag`, which is added here. `postponed` are song_ids
    whose objects could not be read just now, with the reason; nothing is written of them, and they are tried again.
    `bytes_read` counts what was fetched from storage.
    """

    rows: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    postponed: dict[str, str] = field(default_factory=dict)
    bytes_read: int = 0


BlockMapper = Callable[[pa.Table], Made]
"""Made once in each worker."""


@dataclass(frozen=True)
class Stage:
    """Where a stage's rows and rejects go."""

    name: str
    target: str
    workspace: Workspace

    def finished_ids(self) -> pa.ChunkedArray:
        """song_id of every song that has a row or a reject."""
        rows = tables.read_table(self.target, ["song_id"])["song_id"] if tables.has_parts(self.target) else []
        rejects = read_rejects(self.workspace, self.name)["song_id"]
        return pa.chunked_array([*getattr(rows, "chunks", []), *rejects.chunks], pa.string())

    def rejected_ids(self) -> pa.ChunkedArray:
        return read_rejects(self.workspace, self.name)["song_id"]


class _Block:
    """The Ray Data mapper: runs the stage's own mapper on a block and writes what comes out."""

    def __init__(self, make_mapper: Callable[[], BlockMapper], stage: Stage, attempts: dict[str, int]) -> None:
        self._mapper, self._stage, self._attempts = make_mapper(), stage, attempts

    def __call__(self, tracks: pa.Table) -> pa.Table:
        made = self._mapper(tracks)
        rows, rejects = made.rows, made.rejects
        name = hashlib.sha256("\n".join(tracks["song_id"].to_pylist()).encode()).hexdigest()[:32]
        if rows.num_rows:
            tables.write_part(self._stage.target, name, rows)
        counted = [replace(reject, attempt=self._attempts.get(reject.song_id, 0) + 1) for reject in rejects]
        write_rejects(self._stage.workspace, self._stage.name, name, counted)
        return pa.table({"songs": [tracks.num_rows]})


def map_tracks(
    stage: Stage,
    tracks: pa.Table,
    make_mapper: Callable[[], BlockMapper],
    settings: BatchSettings,
    *,
    on_progress: OnProgress,
) -> Report:
    """Run a stage over the tracks that it has not finished yet.

    Raises: TooManyRejects when all is done and more than the allowed share of the stage's songs was rejected.
    """
    began = time.monotonic()
    pending = tracks.filter(pc.invert(pc.is_in(tracks["song_id"], value_set=stage.finished_ids().combine_chunks())))
    done = total = tracks.num_rows
    done -= pending.num_rows
    on_progress(done, total)
    for songs in _run(stage, pending, make_mapper, settings.rows_per_block):
        done += songs
        on_progress(done, total)
    rejected = pc.sum(pc.is_in(tracks["song_id"], value_set=stage.rejected_ids().combine_chunks())).as_py() or 0
    report = Report(
        stage=stage.name,
        done=pending.num_rows,
        skipped=total - pending.num_rows,
        rejected=rejected,
        seconds=time.monotonic() - began,
        details={"target": stage.target, "songs": total},
    )
    write_report(stage.workspace, report)
    check_share(stage.workspace, stage.name, rejected, total, settings.max_reject_share)
    return report


def _run(stage: Stage, pending: pa.Table, make_mapper: Callable[[], BlockMapper], rows_per_block: int) -> Iterator[int]:
    """Songs finished, block by block, as the workers finish them."""
    if not pending.num_rows:
        return
    by_id = pending.sort_by("song_id")  # parts then cover ranges of ids, and a reader of few songs can skip the others
    blocks = [by_id.slice(start, rows_per_block) for start in range(0, by_id.num_rows, rows_per_block)]
    attempts = read_attempts(stage.workspace, stage.name, pending["song_id"].to_pylist())
    workers = max(1, min(len(blocks), int(ray.cluster_resources().get("CPU", 1))))
    counts = ray.data.from_arrow(blocks).map_batches(
        _Block,
        fn_constructor_args=(make_mapper, stage, attempts),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=workers, initial_size=workers),
        num_cpus=1,
    )
    for row in counts.iter_rows():
        yield int(row["songs"])
