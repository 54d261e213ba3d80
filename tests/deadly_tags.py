"""What writes tags in a child process, and dies over one file or never ends over another."""

import os
import signal
import time

from gatefold.isolation import Core, Work
from pipelines.backfill.isolated import TagRequest
from pipelines.backfill.tag_writing import with_picture


def make_deadly_writer() -> Work[TagRequest, bytes | None]:
    """In the place of `isolated.make_tag_writer`."""
    return _write


def _write(request: TagRequest, _: Core) -> bytes | None:
    if "kills" in request.name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "stalls" in request.name:
        time.sleep(60)
    return with_picture(request.data, request.picture, request.name)
