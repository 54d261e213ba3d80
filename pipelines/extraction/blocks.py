"""Maps the catalogue in blocks: tracks to one Parquet part of rows and one of rejects each, for the stages
spectrograms, covers and embed.

A block is the unit of work, and the most that a crash costs: its part appears whole or not at all, and a song whose row
or reject exists is not processed again unless its files change. One run at a time holds the stage's lease; it first
puts the folder in order, so that whatever killed the run before it, every song ends with one row or one reject. Ray
Data schedules the blocks, again where a worker or a node is lost; it carries only tracks and counts.
"""

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from gatefold.config import BatchSettings
from gatefold.errors import Corrupt, StorageUnavailable, TooManyRejects
from gatefold.progress import OnProgress
from gatefold.records import ETAG
from gatefold.storage import leases, objects, tables
from gatefold.storage.leases import Lease
from pipelines.extraction.compaction import Part, compact, name_of, part_name, part_of, remove_stale
from pipelines.extraction.progress_counts import BlockCounts, ProgressCounts
from pipelines.extraction.rejects import (
    Reject,
    attempt_key,
    check_share,
    check_share_early,
    count_codes,
    read_attempts,
    read_rejects,
    reject_table,
)
from pipelines.extraction.stages import Stage
from pipelines.extraction.telemetry import block_done
from pipelines.report import Report, while_held, write_report
from pipelines.row_mapper import reraise_domain_errors

_LEAST_SONGS = 8
"""songs a task, of a small catalogue; and so many of one task that cannot be read mean that the store is away"""
_BLOCKS_PER_WORKER = 8
_PASSES = 3
_PAUSE_S = (2.0, 6.0)
_REJECTS_PER_PART = 4096
_ORDER_SEED = 0
_T = TypeVar("_T")
_WORKER_STARTS = 3
"""workers in a row that may be lost as they start, as on a machine that is taken away"""


@dataclass(frozen=True)
class BlockResult:
    """What a mapper makes of the tracks of a block: every one of them is among the rows, the rejects or the postponed.

    `rows` are for the stage's table, but for their last column `etag`, which is added here. `postponed` are song_ids
    whose objects could not be read just now, with the reason; nothing is written of them, and they are tried again.
    `bytes_read` counts what was fetched from storage.
    """

    rows: pa.Table
    rejects: list[Reject] = field(default_factory=list)
    postponed: dict[str, str] = field(default_factory=dict)
    bytes_read: int = 0


BlockMapper = Callable[[pa.Table], BlockResult]
"""Made once in each worker."""


def map_tracks(
    stage: Stage,
    read_tracks: Callable[[], pa.Table],
    make_mapper: Callable[[], BlockMapper],
    settings: BatchSettings,
    *,
    on_progress: OnProgress,
    num_gpus: int = 0,
) -> Report:
    """Run a stage over the tracks that it has not finished yet; where nothing has changed since, no part is looked at.

    Args:
        read_tracks: all tracks of the stage, with `song_id`, `etag` and what the mapper needs.
        num_gpus: that Ray grants each worker.

    Raises: RunInProgress; TooManyRejects when more than the allowed share of the songs was rejected, at the end or as
    soon as it is clear; StorageUnavailable when the store is away, or some songs could not be read in three passes.
    """
    finished = stage.finished()
    if finished is not None:
        tally = ProgressCounts(finished.songs, finished.songs, Counter(finished.rejected))
        on_progress(tally.done, tally.total)
    else:
        with leases.hold(stage.lease) as lease:
            run = _Run(stage, lease, make_mapper, settings, while_held(lease, on_progress), num_gpus)
            tally = run.finish(read_tracks)
    report = tally.report(stage)
    write_report(stage.workspace, report)
    check_share(stage.workspace, stage.name, report.rejected, tally.total, settings.max_reject_share)
    return report


@dataclass(frozen=True)
class _Run:
    """One run of a stage, under its lease."""

    stage: Stage
    lease: Lease
    make_mapper: Callable[[], BlockMapper]
    settings: BatchSettings
    on_progress: OnProgress
    num_gpus: int = 0
    tally: ProgressCounts = field(default_factory=ProgressCounts)

    def finish(self, read_tracks: Callable[[], pa.Table]) -> ProgressCounts:
        stage, tally = self.stage, self.tally
        name = stage.begin()
        tracks = read_tracks()
        pending = self._reconcile(tracks)
        while pending.num_rows:
            self._run_until_complete(pending)
            if self._parts_unchanged():
                break
            pending = self._reconcile(tracks)  # somebody else wrote here: a worker that outlived its driver
        self.lease.check()
        parts = compact(stage.target, tally.rows, self.settings.rows_per_block)
        compact(stage.rejects, tally.rejects, _REJECTS_PER_PART)
        stage.finish(name, tally.outcome(), parts)
        return tally

    def _reconcile(self, tracks: pa.Table) -> pa.Table:
        """Removes what is too much, and counts what is there; the tracks that have neither row nor reject."""
        self.lease.check()
        tally, claimed = self.tally, np.zeros(tracks.num_rows, np.bool_)
        tally.rows = remove_stale(self.stage.target, tracks, claimed)
        tally.rejects = remove_stale(self.stage.rejects, tracks, claimed)
        tally.rejected = Counter(count_codes(read_rejects(self.stage.workspace, self.stage.name)))
        tally.total, tally.done = tracks.num_rows, int(claimed.sum())
        return tracks.filter(pa.array(~claimed))

    def _parts_unchanged(self) -> bool:
        known = ((self.stage.target, self.tally.rows), (self.stage.rejects, self.tally.rejects))
        return all({name_of(uri) for uri in tables.parts(folder)} == set(parts) for folder, parts in known)

    def _run_until_complete(self, todo: pa.Table) -> None:
        """Until every song has a row or a reject. What cannot be read just now is tried again after a pause."""
        try:
            for number in range(_PASSES):
                if number:
                    time.sleep(random.uniform(*_PAUSE_S))
                postponed = self._pass(todo, give_up=number == 0)
                if not postponed:
                    return
                todo = todo.filter(pc.is_in(todo["song_id"], value_set=pa.array(postponed, pa.string())))
            example = next(iter(postponed.values()))
            raise StorageUnavailable(
                f"{self.stage.name}: {len(postponed):,} inputs could not be read in {_PASSES} passes; the same command "
                f"tries them again; such as {example}"
            )
        except (TooManyRejects, StorageUnavailable) as error:
            write_report(self.stage.workspace, self.tally.report(self.stage, stopped=error.message))
            raise

    def _pass(self, todo: pa.Table, *, give_up: bool) -> dict[str, str]:
        """Every song once; those that could not be read, with the reason."""
        tally, limit = self.tally, self.settings.max_reject_share
        blocks = spread(cut(todo, _workers(self.num_gpus), self.settings.rows_per_block))
        tally.block_songs = max(tally.block_songs, *(block.num_rows for block in blocks))
        tally.workers = min(_workers(self.num_gpus), len(blocks))
        self.on_progress(tally.done, tally.total, tally.facts())
        tried = read_attempts(self.stage.workspace, self.stage.name)
        mapper = (self.make_mapper, self.stage, self.lease, tried, give_up)
        postponed: dict[str, str] = {}
        with reraise_domain_errors(), closing(_map(blocks, mapper, self.num_gpus)) as finished:
            for block in finished:
                tally.add(block)
                tally.workers = min(_workers(self.num_gpus), len(blocks))
                postponed |= block.postponed
                self.on_progress(tally.done, tally.total, tally.facts())
                rejected = tally.rejected.total()
                check_share_early(
                    self.stage.name, tally.sample(), rejected=rejected, total=tally.total, limit=limit
                )
        return postponed


def _workers(num_gpus: int) -> int:
    """That the cluster has room for: one a core, or of those with GPUs as many as these are enough for."""
    resources = ray.cluster_resources()
    return max(1, int(resources.get("GPU", 0)) // num_gpus if num_gpus else int(resources.get("CPU", 1)))


def cut(todo: pa.Table, workers: int, rows_per_block: int) -> list[pa.Table]:
    """Blocks by song_id, so that a reader of few songs can skip most parts; of a small catalogue, several a worker."""
    by_id = todo.sort_by("song_id")
    even = max(_LEAST_SONGS, math.ceil(todo.num_rows / (workers * _BLOCKS_PER_WORKER)))
    rows = min(rows_per_block, even)
    return [by_id.slice(start, rows) for start in range(0, by_id.num_rows, rows)]


def spread(blocks: list[_T]) -> list[_T]:
    """The blocks in an order that has nothing to do with their ids, the same each time.

    Songs that cannot be used are often neighbours: of the first blocks by id all may be bad, and hardly any of all.
    """
    return random.Random(_ORDER_SEED).sample(blocks, len(blocks))


def _map(blocks: list[pa.Table], mapper: tuple[Any, ...], num_gpus: int) -> Generator[BlockCounts, None, None]:
    """The blocks as they are finished; closed before the last, it stops the others."""
    ray.data.DataContext.get_current().max_consecutive_actor_init_deaths = _WORKER_STARTS
    finished = ray.data.from_arrow(blocks).map_batches(
        _BlockWriter,
        fn_constructor_args=mapper,
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            min_size=1,
            max_size=len(blocks),
            initial_size=min(_workers(num_gpus), len(blocks)),  # nodes may join as it runs
        ),
        num_cpus=1,
        num_gpus=num_gpus,
    )
    # nothing is prefetched: each block would be reported when the next one is finished
    for batch in finished.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from map(BlockCounts.from_json, batch["block"].to_pylist())


class _BlockWriter:
    """The Ray Data mapper: runs the stage's own mapper on a block and writes what comes out."""

    def __init__(
        self,
        make_mapper: Callable[[], BlockMapper],
        stage: Stage,
        lease: Lease,
        attempts: dict[str, int],
        give_up: bool,
    ) -> None:
        self._mapper, self._stage, self._lease, self._attempts = make_mapper(), stage, lease, attempts
        self._give_up = give_up

    def __call__(self, tracks: pa.Table) -> pa.Table:
        began = time.monotonic()
        made = self._mapper(tracks)
        self._check(tracks, made)
        etags = dict(zip(tracks["song_id"].to_pylist(), tracks["etag"].to_pylist(), strict=True))
        rows = made.rows.append_column(ETAG, pa.array([etags[s] for s in made.rows["song_id"].to_pylist()], ETAG.type))
        rejects = reject_table([self._counted(reject, etags[reject.song_id]) for reject in made.rejects])
        name = part_name(tracks)
        self._lease.check()  # a worker of a driver that was killed finds another holder, and writes nothing
        block = BlockCounts(
            name,
            _write_or_remove_part(self._stage.target, name, rows),
            _write_or_remove_part(self._stage.rejects, name, rejects),
            count_codes(rejects),
            made.postponed,
            made.bytes_read,
            time.monotonic() - began,
        )
        songs = tracks.num_rows - len(made.postponed)
        block_done(self._stage.name, songs, block.codes, block.bytes_read, block.seconds)
        return pa.table({"block": [block.to_json()]})

    def _check(self, tracks: pa.Table, made: BlockResult) -> None:
        """Raises: StorageUnavailable when nothing at all could be read; Corrupt when a song was forgotten."""
        if self._give_up and len(made.postponed) == tracks.num_rows >= _LEAST_SONGS:
            example = next(iter(made.postponed.values()))
            raise StorageUnavailable(f"{self._stage.name}: none of {tracks.num_rows} inputs could be read: {example}")
        returned = {*made.rows["song_id"].to_pylist(), *made.postponed, *(reject.song_id for reject in made.rejects)}
        if returned != (given := set(tracks["song_id"].to_pylist())):
            raise Corrupt(
                f"{self._stage.name}: songs went in and not out, or the reverse: {sorted(returned ^ given)[:3]}"
            )

    def _counted(self, reject: Reject, etag: str) -> Reject:
        tried = self._attempts.get(attempt_key(reject.song_id, etag), 0)
        return replace(reject, attempt=tried + 1, etag=etag or None)


def _write_or_remove_part(folder: str, name: str, rows: pa.Table) -> Part | None:
    """Writes a part, or removes what an earlier try of this block left there."""
    if not rows.num_rows:
        objects.delete(objects.join(folder, f"{name}.parquet"))
        return None
    tables.write_part(folder, name, rows)
    return part_of(rows)
