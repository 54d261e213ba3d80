"""Songs that their decoder dies of or hangs over, for `serve.deployments.song_decoder`."""

import os
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np

from gatefold.config import AudioSettings
from gatefold.isolation import Core, Work
from gatefold.records import LogMelWindows
from serve.deployments.song_decoder import UploadedSong, make_decoder


def deadly(deed: str, marker: Path) -> bytes:
    """A file that is a deed: exit, segfault, kill, spin or fill. `marker` gets an x each time that a decoder has it."""
    return f"{deed} {marker}".encode()


def make_deadly_decoder(audio: AudioSettings, memory_bytes: int) -> Work[UploadedSong, LogMelWindows]:
    """As `song_decoder.make_decoder`, for the same songs and for deadly ones."""
    return partial(_decode_or_die, make_decoder(audio, memory_bytes))


def _decode_or_die(decode: Work[UploadedSong, LogMelWindows], song: UploadedSong, core: Core) -> LogMelWindows:
    deed, _, marker = song.data[:300].partition(b" ")
    if deed not in (b"exit", b"segfault", b"kill", b"spin", b"fill"):
        return decode(song, core)
    with Path(marker.decode()).open("a") as file:
        file.write("x")
    if deed == b"exit":
        os._exit(3)
    if deed in (b"segfault", b"kill"):
        signal.raise_signal(signal.SIGSEGV if deed == b"segfault" else signal.SIGKILL)
    if deed == b"spin":
        re.match(r"(a+)+$", "a" * 64 + "b")  # C that keeps the interpreter to itself
    return decode(UploadedSong(np.ones(1 << 40, np.uint8).tobytes(), song.name), core)
