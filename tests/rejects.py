"""Rejects that a stage has left, written as its blocks write them."""

from collections.abc import Sequence

from gatefold.storage import tables
from gatefold.workspace import Workspace
from pipelines.extraction.rejects import Reject, reject_table


def write_rejects(workspace: Workspace, stage: str, name: str, rejects: Sequence[Reject]) -> str | None:
    """Keeps a batch as the part `name`; its uri, or None for an empty batch. A part of that name is replaced."""
    if not rejects:
        return None
    return tables.write_part(workspace.rejects(stage), name, reject_table(rejects))
