"""A run of backfill in a process of its own, which is killed on its way."""

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np

from gatefold.config import Settings
from gatefold.images.pixels import encode_picture
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from pipelines.backfill import backfill as module
from pipelines.backfill.journal import Journal, JournalRow
from pipelines.backfill.songs import Group

AT = 2
"""the object that is written when the process is killed"""


def make_cover(group: Group) -> bytes:
    """As the tests make it."""
    return encode_picture(np.full((3, 8, 8), int(group.key[:2], 16), np.uint8), 64, "jpeg")


def run(source: str, workspace: str, into: Any, moment: str) -> None:
    """Fills until the moment comes."""
    releases.current = lambda _: type("Release", (), {"version": "r1"})  # type: ignore[assignment,return-value]  # a double
    put_row = Journal.put
    counts = {"row": 0, "write": 0}

    def killing(name: str, wanted: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            counts[name] += 1
            kill = counts[name] == AT
            if kill and moment == f"before the {wanted}":
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments)
            if kill and moment == f"after the {wanted}":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return called

    counted = killing("row", "row", put_row)

    def put(self: Journal, row: JournalRow) -> None:
        if row.state == "writing":
            counted(self, row)
        else:
            put_row(self, row)

    Journal.put = put  # type: ignore[method-assign]  # the process ends with the run
    name = "put_if_unchanged" if into == "tags" else "put_if_absent"
    real = getattr(objects, name)

    def write(uri: str, *rest: Any) -> Any:
        if "/lease/" in uri:
            return real(uri, *rest)
        return written(uri, *rest)

    written = killing("write", "write", real)
    setattr(objects, name, write)
    module.backfill(Settings(), source, Workspace(workspace), into=into, size=64, maker_of=lambda _: make_cover)
