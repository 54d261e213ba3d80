"""Decoders of sound files: mono blocks with their places, sought where the file can be trusted, or from its beginning.

libsndfile reads wav and aiff, FFmpeg all else. A place is never taken from a header alone: what is met on the way is
compared with it, and where the two differ `Misplaced` says so. Knows nothing of windows, spectrograms, URIs or Ray.

Shape legend: N = samples.
"""

import math
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain, pairwise
from typing import Any, Literal, Protocol

import av
import numpy as np
import numpy.typing as npt
import soundfile

from gatefold.audio.containers import FORMATS
from gatefold.audio.mixing import Mixer, joined
from gatefold.audio.mpeg import Grid
from gatefold.audio.riff import Samples
from gatefold.errors import TruncatedAudio, UndecodableAudio
from gatefold.ranged import RangedFile, Source

BLOCK = 1 << 17  # samples of all channels read at a time where the decoder lets us choose
_LEAD_S = 0.25  # decoded before a window and dropped; of flac nothing is
_LEAD_FRAMES = 9.5  # bit reservoir: an mp3 frame may refer to up to nine before it
_JUMP_S = 0.02  # by which the place of a frame may differ from the samples counted, in the first page of an ogg
_FIRST_PAGE_S = 6.0
_FAR = 1 << 60  # a place behind the end of everything
_REDUCED = 40_000  # entries from which on FFmpeg may have dropped every other one of its index
_DENSER = 2.5  # factor by which the bytes a second between two windows may differ from those of the windows

Waveform = npt.NDArray[np.float32]


class Misplaced(Exception):
    """What was decoded contradicts what the file says of itself, which promised so many samples."""

    def __init__(self, promised: int, *, cut_short: bool = False) -> None:
        super().__init__(promised, cut_short)
        self.promised, self.cut_short = promised, cut_short


class Decoder(Protocol):
    """A song that is open."""

    rate: int
    """hertz"""
    samples: int
    """as the header says, or as was counted where it does not"""
    gap_s: float
    """seconds; a shorter way to the next window is decoded, not jumped: jumping costs as much"""
    mixer: Mixer

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        """Mono blocks float32 [n], n their own, each after the number of its first sample; ascending.

        Args:
            start: sample to seek to; the first block may begin a little before it.
            length: samples that are wanted. Blocks go on to `start + length` at least, or to the end of the song.

        Raises: Misplaced.
        """

    def confirm(self) -> None:
        """To be called when all windows are decoded. Raises: Misplaced where they may not be what they seem."""


def reason(error: Exception) -> str:
    """What a decoder says, without the address of our file in memory."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip()


class SoundFileDecoder:
    """libsndfile, which knows where every sample of a wav lies."""

    gap_s = 2.0

    def __init__(self, opened: soundfile.SoundFile, file: RangedFile, samples: Samples, name: str) -> None:
        self.rate: int = opened.samplerate
        self.samples = opened.frames * samples.promised // max(1, samples.size)
        self.mixer = Mixer()
        self._opened, self._file, self._name = opened, file, name

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        """As `Decoder.blocks`, [n] from exactly `start` to `start + length`. Raises: TruncatedAudio."""
        try:
            self._opened.seek(min(start, self._opened.frames))
            self._file.expect(length * self._file.size // self.samples)
            at, end, most = start, start + length, BLOCK // self._opened.channels
            while at < end and len(block := self._opened.read(min(most, end - at), dtype="float32", always_2d=True)):
                self._file.check()
                yield at, self.mixer.mono(block)
                at += len(block)
            self._file.check()
        except soundfile.SoundFileError as error:
            self._file.check()
            raise TruncatedAudio(
                f"{self._name}: cut short or damaged, decoding stopped ({reason(error)}); send it again"
            ) from error

    def confirm(self) -> None:
        """Nothing can be wrong: every sample has its byte."""


def audio_stream(container: av.container.InputContainer, name: str) -> Any:
    """The stream that is a song. Raises: UndecodableAudio where there is none that can be decoded."""
    if not container.streams.audio:
        raise UndecodableAudio(f"{name}: holds no audio stream; expected {FORMATS}")
    stream = container.streams.audio[0]
    if stream.codec_context is None:  # then it has none of the attributes below
        raise UndecodableAudio(f"{name}: its audio is in a codec that is not known here; expected {FORMATS}")
    if not stream.rate or stream.time_base is None:
        raise UndecodableAudio(f"{name}: its audio stream names no sample rate; encode it again")
    return stream


def decoded(
    container: av.container.InputContainer, stream: Any, file: RangedFile
) -> Iterator[tuple[Any, list[Any]]]:
    """Packets and their frames, of all that follows; of one that is damaged there are none, as players pass over it."""
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.InvalidDataError:  # what lacks in the end is counted
            frames = []
        file.check()
        yield packet, frames


def _unlike(rate: int, other: int, name: str) -> str:
    return f"{name}: goes from {rate:,} to {other:,} Hz within; encode it anew"


@dataclass
class _Seen:
    """Where packets lay: spans of [sample, byte] at the first and the last packet after each jump."""

    spans: list[list[tuple[int, int]]] = field(default_factory=list)

    def is_even(self, samples: int, size: int) -> bool:
        """Whether the bytes between the spans are about as many as their samples would take."""
        dense = [(last[1] - first[1]) / (last[0] - first[0]) for first, last in self.spans if last[0] > first[0]]
        if not dense:
            return True
        ends = [*(span[0] for span in self.spans[1:]), (samples, size)]
        for (_, (at, byte)), (next_at, next_byte) in zip(self.spans, ends, strict=True):
            expected = [share * (next_at - at) for share in (min(dense) / _DENSER, max(dense) * _DENSER)]
            slack = 0.02 * size
            if not expected[0] - slack <= next_byte - byte <= expected[1] + slack:
                return False
        return True


class FFmpegDecoder:
    """FFmpeg, for all that is compressed: jumps to each window."""

    gap_s = 2.0

    def __init__(
        self,
        container: av.container.InputContainer,
        file: RangedFile,
        name: str,
        *,
        count: Literal["index", "packets"] | None = None,
        grid: Grid | None = None,
    ) -> None:
        """`count`: how all packets are counted first, where the file does not say how long it is. `grid`: where the
        frames of an mp3 lie, which FFmpeg reckons less exactly.
        """
        file.check()
        self._stream = stream = audio_stream(container, name)
        self._container, self._file, self._name, self._grid = container, file, name, grid
        self.rate, self.mixer = stream.rate, Mixer()
        self._tick_s = float(stream.time_base)
        self._begin = stream.start_time or 0  # ticks
        self._format = container.format.name
        self._lead_s = {"flac": 0.0, "mp3": max(_LEAD_S, _LEAD_FRAMES * 1152 / self.rate)}.get(self._format, _LEAD_S)
        self.counted = 0
        """samples of all frames, where they were counted by their index"""
        ticks = self._counted_ticks(count) if count else stream.duration or 0
        if self._format == "ogg" and self._begin > 0:  # cut from a live stream: the last place counts from elsewhere
            ticks -= self._begin
        self.samples = round(ticks * self._tick_s * self.rate)
        self._fresh = not count  # nothing was read of it yet
        self._seen = _Seen()

    def _counted_ticks(self, count: Literal["index", "packets"]) -> int:
        """How long all its packets last; none is decoded. FFmpeg remembers where they lie, and seeks by that."""
        self._file.expect(self._file.size)
        if count == "packets":
            ticks = sum(packet.duration or 0 for packet in self._container.demux(self._stream))
            self._file.check()
            return ticks
        with suppress(av.FFmpegError):  # there is no such place; but then it has been everywhere
            self._container.seek(_FAR, stream=self._stream)
        self._file.check()
        entries = self._stream.index_entries
        count_of = len(entries)
        if count_of < 2:
            return self._stream.duration or 0
        last, step = entries[count_of - 1].timestamp, entries[1].timestamp - entries[0].timestamp
        if count_of >= _REDUCED:
            return self._end_after(last) - self._begin
        if last - entries[0].timestamp != step * (count_of - 1):  # frames of unlike length
            raise Misplaced(0)
        self.counted = round((last + step) * self._tick_s * self.rate)
        counted = last + step - self._begin
        known = self._stream.duration or 0  # without what the encoder padded
        return known if 0 <= counted - known <= 4 * step else counted

    def _end_after(self, ticks: int) -> int:
        """Where the last packet ends, found from a place near it."""
        self._container.seek(ticks, stream=self._stream, backward=True)
        ends = [int(packet.pts) + int(packet.duration or 0) for packet in self._container.demux(self._stream)
                if packet.pts is not None]  # fmt: skip
        self._file.check()
        end = max(ends, default=ticks)
        self.counted = round(end * self._tick_s * self.rate)
        return end

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        """As `Decoder.blocks`, [n] from the frame that holds `start` to the end of the song."""
        if start or not self._fresh:
            lead_s = start / self.rate - self._lead_s
            # where the song begins in the middle of a frame, the frame before that is needed too
            ticks = round(lead_s / self._tick_s) + self._begin if lead_s > 0 else min(0, self._begin)
            try:
                self._container.seek(ticks, stream=self._stream, backward=True)
            except av.EOFError:  # the place lies behind the last byte: there is nothing to decode
                self._file.check()
                return
            self._file.check()
        self._fresh = False
        self._file.expect(round((length / self.rate + self._lead_s) * self._file.size * self.rate / self.samples))
        for at, frame in joined(self._placed(start), start + length, BLOCK):
            yield at, self.mixer.mono_of(frame)

    def _placed(self, start: int) -> Iterator[tuple[int, av.AudioFrame]]:
        """Frames that reach beyond `start`, with the number of their first sample."""
        at = start
        span: list[tuple[int, int]] = []
        noted = self._format == "flac"
        begins = unsure = self._format == "ogg" and start == 0
        jump, first_page = _JUMP_S * self.rate, _FIRST_PAGE_S * self.rate
        for (place, frame, packet), (following, _, _) in pairwise(chain(self._stamped(start), [(None, None, None)])):
            end = at + frame.samples
            if place is not None and place != at:
                off = abs(place - at)
                # FFmpeg places a short Vorbis block after a long one too late, and the next one right; the last frame
                # is contradicted by none
                if following != end and (following is not None or off > jump):
                    # of a song of one page it counts back from the end, as if the encoder had not cut the last frame
                    if begins or (unsure and off > jump):
                        raise Misplaced(self.samples)
                    at, end = place, place + frame.samples
            begins, unsure = False, unsure and at < first_page
            if end > start:
                yield at, frame
            at = end
            if noted and packet.pos is not None:
                self._note(span, at, packet.pos)

    def _stamped(self, start: int) -> Iterator[tuple[int | None, Any, Any]]:
        """Frames after a seek to `start`, each with the sample that its timestamp names, and its packet."""
        shift = None
        rate, begin, ratio = self.rate, self._begin, self._tick_s * self.rate
        for packet, frames in decoded(self._container, self._stream, self._file):
            for frame in frames:
                if frame.sample_rate != rate:
                    raise UndecodableAudio(_unlike(rate, frame.sample_rate, self._name))
                pts = frame.pts
                if pts is not None and shift is None:
                    shift = self._shift(packet, start)
                yield None if pts is None or shift is None else round((pts + shift - begin) * ratio), frame, packet

    def _note(self, span: list[tuple[int, int]], at: int, byte: int) -> None:
        """Of a span the first and the last place are kept. Raises: Misplaced where numbers begin anew: another part."""
        if not span:
            self._seen.spans.append(span)
            span.append((at, byte))
        if at < span[-1][0]:
            raise Misplaced(self.samples)
        span[1:] = [(at, byte)]

    def _shift(self, packet: Any, start: int) -> int:
        """Ticks to be added to the timestamps that FFmpeg gives after a seek to `start`."""
        if self._grid is None or start == 0 or packet.pos is None or packet.pts is None or not packet.duration:
            return 0
        number = self._grid.number(packet.pos)
        if number is None:
            raise Misplaced(self.samples)
        return number * int(packet.duration) - int(packet.pts)

    def confirm(self) -> None:
        """Returns where all places seen agree with the number of samples. Raises: Misplaced."""
        if self._format == "flac" and not self._seen.is_even(self.samples, self._file.size):
            raise Misplaced(self.samples)

    def misplaced(self) -> Misplaced:
        """What to raise where the end is not where it should be."""
        cut = self._format.startswith("mov") and any(
            entry.pos + entry.size > self._file.size for entry in self._stream.index_entries
        )
        return Misplaced(self.samples, cut_short=cut)


class WholeDecoder:
    """FFmpeg from the first sample to the last, counted as they come: slow, and right whatever the file says."""

    gap_s = math.inf

    def __init__(self, source: Source, format: str, max_bytes: int, max_s: float, name: str) -> None:
        """`max_s`: where counting ends, as such a song is refused."""
        self._source, self._format, self._max_bytes, self._name = source, format, max_bytes, name
        self.last_packet = b""
        self.mixer = Mixer()
        self.rate = self.samples = 0
        last = None
        for packet, frames in self._frames():
            last = packet if packet.size else last
            for frame in frames:
                self.rate = self.rate or frame.sample_rate
                if frame.sample_rate != self.rate:
                    raise UndecodableAudio(_unlike(self.rate, frame.sample_rate, name))
                self.samples += frame.samples
            if self.samples > (max_s + 1) * self.rate > 0:
                break
        self.last_packet = b"" if last is None else bytes(last)

    def _frames(self) -> Generator[tuple[Any, list[Any]], None, None]:
        file = RangedFile(self._source, self._max_bytes)
        file.expect(file.size)
        try:
            with av.open(file, format=self._format, metadata_errors="ignore") as container:
                file.check()
                yield from decoded(container, audio_stream(container, self._name), file)
        except av.PatchWelcomeError as error:  # of joined oggs
            raise UndecodableAudio(
                f"{self._name}: is joined of parts of unlike sample rates or channels; encode it as one"
            ) from error
        except av.FFmpegError:
            file.check()
            raise

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        """As `Decoder.blocks`, [n] from the frame that holds `start` to the end; all before it is decoded too."""
        with closing(self._frames()) as frames:
            for at, frame in joined(_counted(frames, start), start + length, BLOCK):
                yield at, self.mixer.mono_of(frame)

    def confirm(self) -> None:
        """Nothing can be wrong: every sample was counted."""


def _counted(decoded: Iterator[tuple[Any, list[Any]]], start: int) -> Iterator[tuple[int, av.AudioFrame]]:
    at = 0
    for _, frames in decoded:
        for frame in frames:
            if at + frame.samples > start:
                yield at, frame
            at += frame.samples
