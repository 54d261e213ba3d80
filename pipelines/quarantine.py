"""Inputs that could not be used: one row each, with the reason, so that a bad song costs itself and never the job.

Only the caller's errors belong here. What passes is retried and what is corrupt stops the job; neither makes a row.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone

import pyarrow as pa

from gatefold.errors import GatefoldError, StageMissing, TooManyRejects
from gatefold.records import REJECTS
from gatefold.storage import objects, tables
from gatefold.workspace import Workspace


@dataclass(frozen=True)
class Reject:
    """One input that a stage could not use; `attempt` counts from 1, `at` is UTC."""

    song_id: str
    uri: str | None
    stage: str
    code: str
    message: str
    attempt: int
    at: datetime


def reject_of(error: GatefoldError, song_id: str, uri: str | None, stage: str, attempt: int = 1) -> Reject:
    """The row that tells of this error."""
    return Reject(song_id, uri, stage, error.code, error.message, attempt, datetime.now(timezone.utc))


def reject_table(rejects: Sequence[Reject]) -> pa.Table:
    """The rows as a table of the schema `records.REJECTS`."""
    return pa.Table.from_pylist([asdict(reject) for reject in rejects], schema=REJECTS)


def write_rejects(workspace: Workspace, stage: str, name: str, rejects: Sequence[Reject]) -> str | None:
    """Keeps a batch as the part `name`; its uri, or None for an empty batch. A part of that name is replaced."""
    if not rejects:
        return None
    return tables.write_part(workspace.rejects(stage), name, reject_table(rejects))


def read_rejects(workspace: Workspace, stage: str | None = None) -> pa.Table:
    """All rejects of a stage, or of all stages, the oldest first; no rows when there are none."""
    folder = objects.parent(workspace.rejects("any")) if stage is None else workspace.rejects(stage)
    try:
        return tables.read_table(folder).cast(REJECTS).sort_by("at")
    except StageMissing:
        return REJECTS.empty_table()


def check_share(workspace: Workspace, stage: str, rejected: int, total: int, limit: float) -> None:
    """Refuses to call a stage well done when too many of its inputs were rejected.

    Args:
        total: all inputs, the rejected ones included.
        limit: the share in [0, 1] that is still acceptable.

    Raises: TooManyRejects naming the most frequent codes.
    """
    if not total or rejected / total <= limit:
        return
    codes = Counter(read_rejects(workspace, stage)["code"].to_pylist())
    most = ", ".join(f"{code} ({times:,})" for code, times in codes.most_common(3))
    raise TooManyRejects(
        f"{stage}: {rejected:,} of {total:,} inputs were rejected ({rejected / total:.0%}, limit {limit:.0%}), "
        f"most often {most}; see `gatefold rejects list`, then mend them or raise batch.max_reject_share"
    )
