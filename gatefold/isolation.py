"""Isolation of work that may hang or crash, in a child process: a bad item costs itself and no other.

A decoder written in C can spin for ever, segfault, or ask for memory until the machine kills it. No `except` outlives
that; another process does. The child runs a few items at a time on one core: while one waits for the store, another
computes. When it is lost, the items it was given are run again one at a time, so that only those that crash it are
rejected. This module knows nothing of songs, of stores, or of Ray.
"""

import fcntl
import json
import math
import os
import queue
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar

from gatefold.errors import DecoderCrashed, DecodingTimeout, GatefoldError, InputError, Unavailable

Item = TypeVar("Item")
Result = TypeVar("Result")

Core: TypeAlias = threading.Lock
"""The lock of a child's one core: its holder may compute."""

Work: TypeAlias = Callable[[Item, Core], Result]
"""Called with the core held; holds it again when it returns or raises. A GatefoldError is an outcome, others are bugs;
a MemoryError is neither, but an end of the process like that which the machine would have made of it."""

START_LIMIT_S = 300.0
"""A child that has not made its work by then (a cold disk, torch to import) is stuck."""
START_PAUSES_S = (1.0, 10.0)
"""Pauses before another start, where the machine killed the child while it started: memory may be free by then."""
LAST_WORDS_S = 10.0
"""How long a process may take to be gone once it has closed its end."""
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
"""How machines end processes: for want of memory, before they shut down. No decoder ends itself so."""

_BOOT = (
    "import json, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN); sys.path[:] = json.loads(sys.argv[2]); "
    "from gatefold.isolation import live_as_child; live_as_child(int(sys.argv[1]))"
)
"""A program of its own, and no start method of multiprocessing: those import the parent's main module, which on a Ray
worker is Ray's; a fork would copy the locks of threads that it does not copy."""


@contextmanager
def released(core: Core) -> Iterator[None]:
    """For waits inside work: others may compute meanwhile."""
    core.release()
    try:
        yield
    finally:
        core.acquire()


class Isolated(Generic[Item, Result]):
    """Work in a child process: an item that outlives the limit, or takes the process with it, costs only itself."""

    def __init__(self, make_work: Callable[[], Work[Item, Result]], *, timeout_s: float, in_flight: int = 4) -> None:
        """`make_work`: picklable by name (a `partial` of functions of modules), called once in each child, which starts
        with the first item and stays for the next `map`. `timeout_s`: how long an item may take, its waits included.
        `in_flight`: how many items a child is given at a time.
        """
        self._start = partial(_Child, make_work, in_flight, timeout_s)
        self._timeout_s, self._in_flight = timeout_s, in_flight
        self._child: _Child | None = None
        self._mapping = threading.Lock()

    def map(self, items: Sequence[Item]) -> Iterator[tuple[int, Result | GatefoldError]]:
        """(index, outcome) of each item, exactly once, in the order in which they end.

        An outcome is what work returned, the GatefoldError that it raised, DecodingTimeout, or DecoderCrashed.

        Raises: RuntimeError with the child's traceback for any other error of work or of `make_work`; the GatefoldError
        of `make_work`; Unavailable when the machine keeps killing children before they begin.
        """
        if not self._mapping.acquire(blocking=False):
            raise RuntimeError("this Isolated is in the middle of a map; finish or close that one first")
        try:
            waiting = deque(enumerate(items))
            while waiting:
                suspects = yield from self._together(waiting)
                for index, item in suspects:
                    yield index, self._alone(index, item)
        finally:
            self._mapping.release()

    def start(self) -> None:
        """Have a child that is ready for its first item. Raises: as `map`."""
        self._ready()

    def once(self, item: Item) -> Result | GatefoldError:
        """The outcome of one item that has the child for itself, and is handed to one child only: for items that a
        caller uploaded, who may have meant to kill it.

        Raises: as `map`.
        """
        if not self._mapping.acquire(blocking=False):
            raise RuntimeError("this Isolated is in the middle of a map; finish or close that one first")
        try:
            return self._alone(0, item, (False,))
        except BaseException:
            self.close()  # what still runs must not answer a later item
            raise
        finally:
            self._mapping.release()

    def close(self) -> None:
        """End the child; a later `map` starts another."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def __enter__(self) -> "Isolated[Item, Result]":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _together(
        self, waiting: deque[tuple[int, Item]]
    ) -> Generator[tuple[int, Result | GatefoldError], None, list[tuple[int, Item]]]:
        """Outcomes until none is left, or until the child is lost; returns the items that it was given then."""
        running: dict[int, tuple[Item, float]] = {}  # the oldest first
        caller_s = 0.0  # the caller's own time between two outcomes is not the items'
        child = self._ready()
        try:
            while waiting or running:
                while waiting and len(running) < self._in_flight:
                    index, item = waiting.popleft()
                    running[index] = item, time.monotonic() - caller_s
                    child.send(index, item)
                _, started = next(iter(running.values()))
                outcome: Result | GatefoldError
                index, outcome = child.outcome(started + self._timeout_s - (time.monotonic() - caller_s))
                del running[index]
                handed_over = time.monotonic()
                yield index, outcome
                caller_s += time.monotonic() - handed_over
        except _LostError:
            suspects = [(index, item) for index, (item, _) in running.items()]
            running.clear()
            return suspects
        finally:
            if running:  # a bug, or a caller who has seen enough: what still runs must not answer a later map
                self.close()
        return []

    def _alone(
        self, index: int, item: Item, pardons: tuple[bool, ...] = (True, False)
    ) -> Result | GatefoldError:
        """`pardons`: of each try, whether another follows where the machine may have ended the child."""
        for pardon in pardons:
            child = self._ready()
            try:
                child.send(index, item)
                outcome: Result | GatefoldError
                _, outcome = child.outcome(self._timeout_s)
            except _LostError as lost:
                if not (pardon and lost.maybe_the_machine):
                    return lost.verdict(self._timeout_s, len(pardons))
            else:
                return outcome
        raise AssertionError("the last loss is never pardoned")

    def _ready(self) -> "_Child":
        if self._child is None or not self._child.is_alive():
            self.close()
            self._child = self._started()
        return self._child

    def _started(self) -> "_Child":
        for pause_s in (*START_PAUSES_S, None):
            try:
                return self._start()
            except _LostError as lost:
                if not lost.maybe_the_machine:
                    raise RuntimeError(f"no child process could start: {lost}; what it said is in stderr") from lost
                if pause_s is None:
                    raise Unavailable(f"no child process could start here: {lost}; free some memory") from lost
            time.sleep(pause_s)
        raise AssertionError("the last start succeeds or raises")


# ---- the parent's end -----------------------------------------------------------------------------------------------


class _LostError(Exception):
    """The child is gone. `exit_code` as subprocess has it, None where it was killed for taking too long."""

    def __init__(self, exit_code: int | None) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        if self.exit_code is None:
            return "it took too long and was killed"
        if self.exit_code >= 0:
            return f"it ended with exit code {self.exit_code}"
        name = next((kind.name for kind in signal.Signals if kind == -self.exit_code), f"signal {-self.exit_code}")
        return f"it was ended by {name}"

    @property
    def maybe_the_machine(self) -> bool:
        """It may have been this item that took all the memory, or another program."""
        return self.exit_code is not None and -self.exit_code in FROM_OUTSIDE

    def verdict(self, timeout_s: float, tries: int) -> InputError:
        """On an item that had the child for itself, in each of so many tries."""
        if self.exit_code is None:
            return DecodingTimeout(
                f"not decoded within {timeout_s:g} s, the limit, alone on a core; convert the file, or raise the limit"
            )
        times = " twice" if tries > 1 else ""
        cause = f"{times}, most likely for want of memory" if self.maybe_the_machine else ""
        return DecoderCrashed(f"the file takes the decoder's process down: {self}{cause}; convert the file")


@dataclass(frozen=True)
class _Bug:
    """An error that is nobody's input, as text, for it may not survive the way."""

    text: str


class _Child:
    """The process and the socket to it; its work has been constructed."""

    def __init__(self, make_work: Callable[[], Work[Any, Any]], in_flight: int, patience_s: float) -> None:
        ours, theirs = socket.socketpair()
        # a child may also hang in the middle of a message: then a read or write of ours fails, with BlockingIOError
        patience = struct.pack("@ll", *divmod(math.ceil(patience_s * 1e6), 10**6))
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            ours.setsockopt(socket.SOL_SOCKET, option, patience)
        with theirs:
            command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), json.dumps(sys.path)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[theirs.fileno()])
        self._wire = Connection(ours.detach())
        try:
            self._send((make_work, in_flight))
            _, refusal = self.outcome(START_LIMIT_S)
            if refusal is not None:
                raise refusal
        except BaseException:
            self.kill()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def send(self, index: int, item: object) -> None:
        """To be called only while the child has fewer than `in_flight` items, so that it begins at once."""
        self._send((index, item))

    def outcome(self, limit_s: float) -> tuple[int, Any]:
        """(index, result or GatefoldError) of the next item to end; what is there already is taken, however late.

        Raises: _LostError, the child being dead then; RuntimeError on a bug.
        """
        try:
            if not self._wire.poll(max(0.0, limit_s)):
                raise BlockingIOError
            index, outcome = self._wire.recv()
        except (EOFError, OSError) as error:
            raise self._lost(error) from None
        if isinstance(outcome, _Bug):
            raise RuntimeError(f"an error that is not the input's, in a child process:\n{outcome.text}")
        return index, outcome

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._wire.close()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _send(self, message: object) -> None:
        try:
            self._wire.send(message)
        except OSError as error:
            raise self._lost(error) from None

    def _lost(self, error: Exception) -> _LostError:
        exit_code = None
        if not isinstance(error, BlockingIOError):
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_WORDS_S)
            exit_code = self._process.poll()
        self.kill()
        return _LostError(exit_code)


# ---- the child's end ------------------------------------------------------------------------------------------------


def limit_memory(more_bytes: int) -> None:
    """For `make_work`: lets this process allocate so much more than it has now; then allocating fails, as MemoryError
    in Python. On Linux; elsewhere nothing is limited.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_allocated_bytes() + more_bytes, resource.RLIM_INFINITY))


def memory_left() -> float:
    """Bytes that this process may still allocate."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    return math.inf if limit == resource.RLIM_INFINITY else limit - _allocated_bytes()


def _allocated_bytes() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) * 1024


def live_as_child(fd: int) -> None:
    """The whole life of a child: make the work, do it on threads, and end when the parent's end of the wire closes."""
    _be_expendable()
    wire, speaking = Connection(fd), threading.Lock()

    def say(index: int, outcome: object) -> None:
        try:
            with speaking:
                wire.send((index, outcome))
        except OSError:
            os._exit(0)  # the parent is gone

    try:
        make_work, in_flight = wire.recv()
        work = make_work()
    except GatefoldError as error:
        return say(0, error)
    except Exception:  # noqa: BLE001  it is raised again at the parent's end
        return say(0, _Bug(traceback.format_exc()))
    say(0, None)
    tasks: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    core = threading.Lock()
    for _ in range(in_flight):
        threading.Thread(target=_work_through, args=(tasks, work, core, say), daemon=True).start()
    while True:
        try:
            tasks.put(wire.recv())
        except (EOFError, OSError):
            os._exit(0)  # whatever the threads still do
        except Exception:  # noqa: BLE001  an item that cannot be read here; raised again at the parent's end
            say(0, _Bug(traceback.format_exc()))


def _work_through(
    tasks: queue.SimpleQueue[tuple[int, Any]],
    work: Work[Any, Any],
    core: Core,
    say: Callable[[int, object], None],
) -> None:
    while True:
        index, item = tasks.get()
        try:
            with core:
                outcome = work(item, core)
            say(index, outcome)
        except GatefoldError as error:
            say(index, error)
        except MemoryError:
            os.kill(os.getpid(), signal.SIGKILL)  # as the machine would have done, a little later
        except BaseException:  # noqa: BLE001  it is raised again at the parent's end
            say(index, _Bug(f"on {item!r:.300}\n{traceback.format_exc()}"))


def _be_expendable() -> None:
    """Have the kernel end this process first when memory runs out, and at once when the parent is gone.

    It sees the parent's end of stdin close, even while a decoder holds the interpreter; PR_SET_PDEATHSIG would fire
    when the thread that started the child ends.
    """
    if sys.platform == "linux":
        Path("/proc/self/oom_score_adj").write_text("1000")
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)  # SIGIO, and its default is the end
