"""When and how runs of a stage are killed: moments seen from outside, in what lies in storage, and whom the kill hits.

A moment that soon passes is caught by stopping the processes to be killed: only what holds while all are stopped is the
moment. Nothing in the product knows of this.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.known_songs import BLOCKS, KnownSongs

ROOT = Path(__file__).parents[1]
_LIMIT_S = 240.0
_TRIES = 4
_GLANCE_S, _LOOK_S = 0.01, 0.0001
_DRIVER = "from tests.known_songs import main; main()"
Driver = subprocess.Popen[bytes]


Moment = Callable[[KnownSongs], bool]
"""Whether it is now."""

MERGED = 4
"""parts, of the rows of all songs"""


def rows_without_rejects(songs: KnownSongs) -> bool:
    return BLOCKS > songs.parts() > songs.reject_parts()


def rows_doubled(songs: KnownSongs) -> bool:
    """Merged rows are put, and pieces that they were merged of are there still."""
    sizes = songs.part_sizes()
    merged = sum(size > 2 * sizes[0] for size in sizes)
    return merged > 0 and len(sizes) > BLOCKS - merged * (BLOCKS // MERGED - 1)


def pieces_half_gone(songs: KnownSongs) -> bool:
    return MERGED < songs.parts() < BLOCKS and songs.reject_parts() == BLOCKS  # which are put last


def rows_merged(songs: KnownSongs) -> bool:
    return songs.parts() == MERGED and songs.reject_parts() == BLOCKS


def rejects_doubled(songs: KnownSongs) -> bool:
    """Likewise of rejects, which are merged into one part after the rows."""
    return songs.parts() == MERGED and songs.reject_parts() not in (1, BLOCKS)


def all_but_the_note(songs: KnownSongs) -> bool:
    return songs.reject_parts() == 1 and songs.parts() == MERGED and not songs.noted()


def after_parts(count: int) -> Moment:
    return lambda songs: songs.parts() >= count


def after_songs(count: int) -> Moment:
    return lambda songs: songs.begun() >= count


@contextmanager
def driver(songs: KnownSongs, address: str | None = None) -> Iterator[Driver]:
    """The stage in a process of its own, in the cluster at `address` or a Ray of its own; nothing of it is left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": address or "local"}
    command = [sys.executable, "-c", _DRIVER, str(songs.folder), str(songs.pace_s)]
    with (songs.folder / "driver.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True, stdout=log, stderr=log)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def kill_driver(
    moment: Moment, songs: KnownSongs, address: str | None = None, *, workers: bool = False, group: bool = False
) -> None:
    """Start a driver and SIGKILL it at this moment: alone, or with its `workers`, or its `group`: all that it started.

    A moment that passed unseen, on a machine that was busy with other things, is waited for once more from the start.
    """
    for _ in range(_TRIES):
        with driver(songs, address) as process:
            if _stopped_at(moment, songs, process, workers=workers):
                if group:
                    os.killpg(process.pid, signal.SIGKILL)
                kill([process.pid, *(songs.workers() if workers else ())])
                process.wait()
                return
        assert process.returncode == 0, f"it failed before the moment: {said(songs)}"
        songs.start_over()
    raise AssertionError(f"the moment passed unseen in {_TRIES} runs")


def _stopped_at(moment: Moment, songs: KnownSongs, process: Driver, *, workers: bool) -> bool:
    """Stop the driver, and its workers, in this very moment; False when it has ended before."""
    deadline = time.monotonic() + _LIMIT_S
    while process.poll() is None:
        if moment(songs):
            victims = [process.pid, *(songs.workers() if workers else ())]
            _stop(victims)
            if moment(songs):
                return True
            _signal(victims, signal.SIGCONT)
        time.sleep(_LOOK_S if songs.begun() else _GLANCE_S)  # until it has begun, its start needs the cores
        assert time.monotonic() < deadline, f"the moment never came: {said(songs)}"
    return False


def wait_for(moment: Moment, songs: KnownSongs) -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not moment(songs):
        assert time.monotonic() < deadline, f"the moment never came: {said(songs)}"
        time.sleep(0.005)


def kill(pids: Iterable[int]) -> None:
    """SIGKILL processes, whose parents are not ours to wait for."""
    _signal(pids, signal.SIGKILL)


def said(songs: KnownSongs) -> str:
    """The last words of the drivers."""
    log = songs.folder / "driver.log"
    return log.read_text(errors="replace")[-2000:] if log.exists() else "nothing"


@contextmanager
def meanwhile(deed: Callable[[], None]) -> Iterator[None]:
    """Do this on a thread while the block runs; what it raises is raised at the block's end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            deed()
        except BaseException as error:  # noqa: BLE001  it is raised again below
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        if errors:
            raise errors[0]


def _stop(pids: list[int]) -> None:
    _signal(pids, signal.SIGSTOP)
    for pid in pids:
        while _state(pid) not in ("T", "Z", "X", ""):
            pass


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
