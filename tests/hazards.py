"""Work that goes wrong the way decoders do, for `gatefold.isolation`: importable by name, and quickly, in a child."""

import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from gatefold.errors import InvalidSettings, SilentAudio
from gatefold.isolation import Core, Work, released


@dataclass(frozen=True)
class Task:
    """What one item does, and the number that it returns when it is done."""

    number: int
    deed: str = "compute"
    marker: Path | None = None
    """Where `kill twice` counts, and what `wait for` waits for."""
    load: bytes = b""


class Unreadable(Task):
    def __reduce__(self) -> tuple[Callable[[], NoReturn], tuple[()]]:
        return _refuse, ()


def _refuse() -> NoReturn:
    raise ValueError("unreadable item")


@dataclass(frozen=True)
class Trace:
    """Where and when an item was at work, by the clock that all processes share."""

    number: int
    process: int
    began_s: float
    ended_s: float


def make_work() -> Work[Task, Trace]:
    return _do


def make_broken_work(kind: str) -> Work[Task, Trace]:
    if kind == "refuses":
        raise InvalidSettings("n_mels is 0; allowed: 1 or more")
    if kind == "fails":
        raise ImportError("no module named 'decoder'")
    if kind == "dies":
        os._exit(7)
    assert kind == "is killed", kind
    signal.raise_signal(signal.SIGKILL)
    raise AssertionError("SIGKILL did not end the process")


def make_spectrograms() -> Work[int, npt.NDArray[np.float32]]:
    return _spectrogram


def _spectrogram(number: int, _: Core) -> npt.NDArray[np.float32]:
    return np.full((64, 469), number, np.float32)


def _do(task: Task, core: Core) -> Trace:
    began = time.monotonic()
    _DEEDS[task.deed](task, core)
    return Trace(task.number, os.getpid(), began, time.monotonic())


def _compute(_: Task, __: Core) -> None:
    time.sleep(0.002)


def _compute_slowly(_: Task, __: Core) -> None:
    time.sleep(0.2)


def _wait(_: Task, core: Core) -> None:
    with released(core):
        time.sleep(0.2)


def _wait_for(task: Task, core: Core) -> None:
    assert task.marker is not None
    with released(core):
        while not task.marker.exists():
            time.sleep(0.005)


def _wait_and_fail(_: Task, core: Core) -> None:
    with released(core):
        raise SilentAudio("every sample is 0")


def _fail(_: Task, __: Core) -> None:
    raise SilentAudio("every sample is 0")


def _blunder(task: Task, __: Core) -> None:
    _ = task.number / 0


def _sleep(_: Task, __: Core) -> None:
    time.sleep(3600)


def _spin(_: Task, __: Core) -> None:
    re.match(r"(a+)+$", "a" * 64 + "b")  # C that keeps the interpreter to itself, for some thousand years


def _stutter(task: Task, core: Core) -> None:
    os.write(int(sys.argv[1]), struct.pack("!i", 1000))  # the head of a message on the wire, and never its body
    _spin(task, core)


def _segfault(_: Task, __: Core) -> None:
    signal.raise_signal(signal.SIGSEGV)


def _exit(_: Task, __: Core) -> None:
    os._exit(3)


def _kill(_: Task, __: Core) -> None:
    signal.raise_signal(signal.SIGKILL)


def _kill_twice(task: Task, core: Core) -> None:
    """Together with others the first time, alone the second, then no more: as where memory was short for a while."""
    assert task.marker is not None
    with task.marker.open("a") as file:
        file.write("x")
    if task.marker.stat().st_size <= 2:
        _kill(task, core)


def _exhaust(_: Task, __: Core) -> None:
    raise MemoryError


_DEEDS: dict[str, Callable[[Task, Core], None]] = {
    "compute": _compute,
    "slow": _compute_slowly,
    "wait": _wait,
    "wait for": _wait_for,
    "wait and fail": _wait_and_fail,
    "fail": _fail,
    "blunder": _blunder,
    "sleep": _sleep,
    "spin": _spin,
    "stutter": _stutter,
    "segfault": _segfault,
    "exit": _exit,
    "kill": _kill,
    "kill twice": _kill_twice,
    "exhaust": _exhaust,
}
