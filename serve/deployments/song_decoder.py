"""Decoding of uploads to log-mel windows, each in a child process.

A file that kills, stalls or overfills its decoder is refused, and costs the replica nothing but another child. Knows
nothing of Ray, of HTTP or of models.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from gatefold.audio.decoder_process import bounded, prepare
from gatefold.config import AudioSettings
from gatefold.errors import DecoderCrashed, DecodingTimeout, GatefoldError
from gatefold.isolation import START_LIMIT_S, Core, Isolated, Work
from gatefold.records import LogMelWindows

_STUCK = 3.0
"""times the limit after which a decoder that should have been ended long ago counts as stuck"""


Make: TypeAlias = Callable[[AudioSettings, int], Work["UploadedSong", LogMelWindows]]


@dataclass(frozen=True)
class UploadedSong:
    """A file as it was sent."""

    data: bytes
    name: str
    """what error messages call it"""

    def __repr__(self) -> str:
        return f"UploadedSong({len(self.data)} bytes, {self.name!r})"


class SongDecoder:
    """Child processes that decode songs, so many side by side. Its methods may be called from any thread.

    Args:
        audio: as the encoder's bundle has it, with the endpoint's limits.
        timeout_s: seconds after which a decoder is ended.
        memory_bytes: that a song's decoding may take.
        children: songs decoded at a time.
        make: what a child calls, with `audio` and `memory_bytes`, to have what decodes a song.
    """

    def __init__(
        self, audio: AudioSettings, *, timeout_s: float, memory_bytes: int, children: int, make: "Make | None" = None
    ) -> None:
        self._timeout_s = timeout_s
        made = partial(make or make_decoder, audio, memory_bytes)
        self._children = [Isolated(made, timeout_s=timeout_s, in_flight=1) for _ in range(children)]
        self._closed = False
        self._idle: queue.SimpleQueue[Isolated[UploadedSong, LogMelWindows]] = queue.SimpleQueue()
        self._due: dict[int, float] = {}  # by thread: when what it waits for must have ended
        for child in self._children:
            self._idle.put(child)

    def start(self) -> None:
        """Has the children ready soon, so that the first songs need not wait for them; returns at once."""
        for _ in self._children:
            self._replace(self._idle.get())

    def decode(self, song: UploadedSong) -> LogMelWindows:
        """The song's windows. It is handed to one decoder once, whatever becomes of that.

        Raises: InputError where it cannot be decoded, DecodingTimeout and DecoderCrashed among them; Unavailable where
            no decoder can start here.
        """
        child = self._idle.get()
        try:
            with self._due_within(_STUCK * START_LIMIT_S):
                child.start()
            with self._due_within(_STUCK * self._timeout_s):
                outcome = child.once(song)
        except BaseException:
            self._replace(child)
            raise
        if isinstance(outcome, DecodingTimeout | DecoderCrashed):
            self._replace(child)
            raise type(outcome)(f"{song.name}: {outcome.message}")
        self._idle.put(child)
        if isinstance(outcome, GatefoldError):
            raise outcome
        return outcome

    def check(self) -> None:
        """Raises: RuntimeError where a decoder is stuck, and so is the thread that waits for it."""
        now = time.monotonic()
        stuck = [now - due for due in list(self._due.values()) if now > due]
        if stuck:
            raise RuntimeError(
                f"{len(stuck)} of {len(self._children)} song decoders are stuck; the oldest should have ended "
                f"{max(stuck):.0f} s ago (serve.decode_timeout_s = {self._timeout_s:g})"
            )

    def close(self) -> None:
        """Ends the children; a song that is being decoded fails."""
        self._closed = True
        for child in self._children:
            child.close()

    def _replace(self, child: "Isolated[UploadedSong, LogMelWindows]") -> None:
        """Has the child ready before it gets another song, without keeping anybody waiting for it."""

        def start() -> None:
            try:
                child.start()
            except (GatefoldError, RuntimeError):
                return  # the next song's own start says what is wrong
            finally:
                if self._closed:
                    child.close()
                self._idle.put(child)

        threading.Thread(target=start, name="start a song decoder", daemon=True).start()

    @contextmanager
    def _due_within(self, seconds: float) -> Iterator[None]:
        thread = threading.get_ident()
        self._due[thread] = time.monotonic() + seconds
        try:
            yield
        finally:
            del self._due[thread]


def make_decoder(audio: AudioSettings, memory_bytes: int) -> Work[UploadedSong, LogMelWindows]:
    """In the child: what decodes a song. Args: as SongDecoder."""
    prepare(memory_bytes)
    return partial(_decode, audio, memory_bytes)


def _decode(audio: AudioSettings, memory_bytes: int, song: UploadedSong, _: Core) -> LogMelWindows:
    from gatefold.audio.spectrograms import extract_log_mel  # with torch, in the child alone

    with bounded(memory_bytes):
        return extract_log_mel(song.data, audio, name=song.name)
