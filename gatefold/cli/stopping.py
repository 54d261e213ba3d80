"""Signal handling of a command: Ctrl-C and SIGTERM both end it in order, each with its exit code.

Signals belong to the process: nothing but the console script calls `handle_signals`.
"""

import signal
import threading
from types import FrameType

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
"""exit codes, as shells count them: 130 and 143"""


begun = threading.Event()
"""set when a signal has asked this process to stop"""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which supervisors, containers and `kill` send; whatever ends at Ctrl-C ends at this."""


def handle_signals() -> None:
    """SIGINT and SIGTERM raise in the main thread from now on, in the background of a script too, where SIGINT is
    ignored from the start."""
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def exit_code(stop: KeyboardInterrupt) -> int:
    """What the process ends with after it was stopped."""
    return TERMINATED if isinstance(stop, Terminated) else INTERRUPTED


def _interrupt(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as Python calls it
    begun.set()
    raise KeyboardInterrupt


def _terminate(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as Python calls it
    begun.set()
    signal.signal(signal.SIGTERM, _go_on)  # a second one must not cut short what the first one began
    raise Terminated


def _go_on(signum: int, frame: FrameType | None) -> None:
    """A handler, because children would inherit that a signal is ignored."""
