"""Inputs that could not be used: one row each, with the reason, so that a bad song costs itself and never the job.

Only the caller's errors belong here. What passes is retried and what is corrupt stops the job; neither makes a row.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from gatefold.errors import GatefoldError, ObjectNotFound, StageMissing, TooManyRejects
from gatefold.records import REJECTS
from gatefold.storage import leases, objects, tables
from gatefold.workspace import Workspace
from pipelines.extraction.stages import forget

_FEW = 100
_CERTAINTY = 1e9
"""one in so many runs may be stopped that would have stayed below the limit"""
_REMEDY = "see `gatefold rejects list`, then fix them or raise batch.max_reject_share"


@dataclass(frozen=True)
class Reject:
    """One input that a stage could not use; `attempt` counts from 1, `at` is UTC.

    `etag` says which state of the object was tried, `size_bytes` how large it was; None where it is not known.
    """

    song_id: str
    uri: str | None
    stage: str
    code: str
    message: str
    attempt: int
    at: datetime
    etag: str | None = None
    size_bytes: int | None = None


def reject_of(
    error: GatefoldError,
    song_id: str,
    uri: str | None,
    stage: str,
    attempt: int = 1,
    size_bytes: int | None = None,
) -> Reject:
    """The reject row of this error."""
    now = datetime.now(UTC)
    return Reject(song_id, uri, stage, error.code, error.message, attempt, now, size_bytes=size_bytes)


def reject_table(rejects: Sequence[Reject]) -> pa.Table:
    """The rows as a table of the schema `records.REJECTS`."""
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=REJECTS)


def read_rejects(workspace: Workspace, stage: str | None = None) -> pa.Table:
    """All rejects of a stage, or of all stages, the oldest first; no rows when there are none."""
    folder = objects.parent(workspace.rejects("any")) if stage is None else workspace.rejects(stage)
    try:
        found = tables.read_table(folder, REJECTS.names)
    except StageMissing:
        return REJECTS.empty_table()
    return found.cast(REJECTS).sort_by("at")


@dataclass(frozen=True)
class RejectGroup:
    """The rejects of a stage with one code; `example` is the message of the latest."""

    stage: str
    code: str
    count: int
    example: str


def count_rejects(workspace: Workspace, stage: str | None = None) -> list[RejectGroup]:
    """The rejects of a stage, or of all, by stage and code, the most frequent first."""
    groups = read_rejects(workspace, stage).group_by(["stage", "code"], use_threads=False)
    found = groups.aggregate([("message", "count"), ("message", "last")]).to_pylist()
    made = [RejectGroup(row["stage"], row["code"], row["message_count"], row["message_last"]) for row in found]
    return sorted(made, key=lambda group: -group.count)


def count_codes(rejects: pa.Table) -> dict[str, int]:
    """How many of these rejects have each code."""
    return {one["values"]: one["counts"] for one in pc.value_counts(rejects["code"]).to_pylist()}


def remove_rejects(workspace: Workspace, stage: str, code: str | None = None) -> int:
    """Forgets a stage's rejects, all or those of one code, so that its next run tries their songs again; how many.

    How often each was tried is remembered, for the attempt that its next reject would be, while its file is the same.

    Raises: RunInProgress while the stage runs.
    """
    with leases.hold(workspace.lease(stage)):
        return _remove_rejects(workspace, stage, code)


def _remove_rejects(workspace: Workspace, stage: str, code: str | None) -> int:
    rejects = read_rejects(workspace, stage)
    removed = rejects if code is None else rejects.filter(pc.equal(rejects["code"], code))
    if not removed.num_rows:
        return 0
    forget(workspace, stage)
    keys = map(attempt_key, removed["song_id"].to_pylist(), removed["etag"].to_pylist())
    attempts = read_attempts(workspace, stage) | dict(zip(keys, removed["attempt"].to_pylist(), strict=True))
    # first, so that a crash does not lose the count
    objects.put(_attempts_uri(workspace, stage), json.dumps(attempts).encode())
    for uri in tables.parts(workspace.rejects(stage)):
        part = tables.read_part(uri)
        kept = part.slice(0, 0) if code is None else part.filter(pc.not_equal(part["code"], code))
        if not kept.num_rows:
            objects.delete(uri)
        elif kept.num_rows < part.num_rows:
            tables.write_part(workspace.rejects(stage), objects.name(uri).removesuffix(".parquet"), kept)
    return int(removed.num_rows)


def read_attempts(workspace: Workspace, stage: str) -> dict[str, int]:
    """How often each song was tried before its reject was removed, by `attempt_key`; without the untried."""
    try:
        attempts: dict[str, int] = json.loads(objects.read(_attempts_uri(workspace, stage)))
    except ObjectNotFound:
        return {}
    return attempts


def attempt_key(song_id: str, etag: str | None) -> str:
    """What attempts are counted by: another etag is another file, whose attempts begin anew."""
    return f"{song_id}\n{etag}" if etag else song_id


def _attempts_uri(workspace: Workspace, stage: str) -> str:
    return objects.join(workspace.rejects(stage), "_attempts.json")  # a name that readers of Parquet folders pass over


def check_share(workspace: Workspace, stage: str, rejected: int, total: int, limit: float) -> None:
    """Refuses to call a stage well done when too many of its inputs were rejected.

    Args:
        total: all inputs, the rejected ones included.
        limit: the share in [0, 1] that is still acceptable.

    Raises: TooManyRejects naming the most frequent codes.
    """
    if not total or rejected / total <= limit:
        return
    codes = count_codes(read_rejects(workspace, stage))
    raise TooManyRejects(
        f"{stage}: {rejected:,} of {total:,} inputs were rejected ({rejected / total:.0%}, limit {limit:.0%}), "
        f"most often {most_frequent(codes)}; {_REMEDY}"
    )


@dataclass(frozen=True)
class RejectSample:
    """What a run has made so far of songs that it takes in blocks, which come in an order drawn at random.

    Args:
        codes: how many of them were rejected, by code.
        done: songs that have a row or a reject now, of this run.
        tried: those, and the ones that could not be read yet.
        block_songs: the most songs of a block.
        left: songs of this run that have neither yet.
    """

    codes: Mapping[str, int]
    done: int
    tried: int
    block_songs: int
    left: int

    def least_share(self) -> float:
        """Share of all songs of this run that will be rejected at least, in [0, 1], wrong in one of a billion cases.

        Songs of one block may be all good or all bad, as those of one album are, so blocks count and not songs.

        Source: Hoeffding 1963, "Probability Inequalities for Sums of Bounded Random Variables", sections 2 and 6.
        """
        known = sum(self.codes.values())
        blocks = max(1.0, self.tried / self.block_songs)
        likely = known / max(1, self.tried) - math.sqrt(math.log(_CERTAINTY) / (2 * blocks))
        return max(likely, known / max(1, self.done + self.left))


def check_share_early(stage: str, sample: RejectSample, *, rejected: int, total: int, limit: float) -> None:
    """Refuses to go on where a hundred songs or more show that too many of all will be rejected.

    Args:
        rejected: by this run and those before.
        total: songs of all runs.

    Raises: TooManyRejects naming the most frequent codes.
    """
    known = sum(sample.codes.values())
    least = rejected - known + sample.least_share() * (sample.done + sample.left)
    if sample.tried < _FEW or not sample.left or least <= limit * total:
        return
    raise TooManyRejects(
        f"{stage}: stopped after {total - sample.left:,} of {total:,} inputs, as {rejected:,} were rejected, and at "
        f"least {least / total:.0%} of all will be (limit {limit:.0%}), most often {most_frequent(sample.codes)}; "
        f"{_REMEDY}"
    )


def most_frequent(codes: Mapping[str, int]) -> str:
    """`empty_file 3, silent_audio 1`: at most three codes."""
    return ", ".join(f"{code} {times:,}" for code, times in Counter(codes).most_common(3))
