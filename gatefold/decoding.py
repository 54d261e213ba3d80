"""Decoders: an encoded song in, a few windows of its waveform out, and no more of it read or decoded than they need.

What a file is, its first bytes say; its name is never believed. The demuxer is chosen here and told to FFmpeg, which
could otherwise be talked into opening other files by a playlist. Knows nothing of spectrograms, URIs or Ray.

Shape legend: W = windows, N = samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import av
import numpy as np
import numpy.typing as npt
import soundfile

from gatefold.config import AudioSettings
from gatefold.errors import AudioTooLong, EmptyFile, TooLarge, TruncatedAudio, UndecodableAudio
from gatefold.ranged import BytesSource, RangedFile, Source
from gatefold.riff import Samples, find_samples

FORMATS = "wav, flac, mp3, ogg (vorbis, opus), m4a, aac or aiff"
_RATES = (4_000, 768_000)  # hertz
_FIRST_BYTES = 1 << 15  # of samples: what libsndfile reads while it opens a file of ADPCM, and what is fetched anyhow
_BLOCK = 1 << 17  # samples of all channels read at a time where the decoder lets us choose
_MISSING_S = 0.5  # seconds that a window may lack of what the header promises
_LEAD_S = 0.25  # decoded before a window and dropped: an mp3 frame leans on up to nine before it, of flac on none
_TABLE_ERROR = 0.01  # share of a song by which the places in an mp3's header may be wrong; they are 1/256 apart
_TABLE_FRAMES = 50_000  # of an mp3 that is sought by them: 20 minutes
_GAP_S = 2.0  # a shorter way to the next window is decoded, not jumped: jumping costs as much

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Windows:
    """Pieces of one waveform, mono: the mean of its channels."""

    duration_s: float
    """of the whole song"""
    rate: int
    """hertz, the song's own"""
    starts_s: npt.NDArray[np.float32]
    """[W]"""
    waveform: Waveform
    """[W, N], within -1 to 1 where the file is; silence after the end of a song shorter than one window"""


def decode_windows(source: Source | bytes, audio: AudioSettings, *, name: str = "song") -> Windows:
    """The windows of a song, spread evenly from its beginning to its end; the same from wherever its bytes come.

    Raises: EmptyFile, TooLarge, UndecodableAudio (caused by a MemoryError where memory was short), TruncatedAudio,
    AudioTooLong; and what the source raises.
    """
    source = BytesSource(source) if isinstance(source, bytes) else source
    file = RangedFile(source, audio.max_bytes)
    if not file.size:
        raise EmptyFile(f"{name}: the file is empty")
    try:
        # samples may be infinite or no numbers; that is for the listener to judge
        with _opened(file, source, name) as decoder, np.errstate(all="ignore"):
            return _windows(decoder, audio, name)
    except (av.FFmpegError, soundfile.SoundFileError, ValueError, EOFError) as error:
        file.check()
        raise UndecodableAudio(f"{name}: cannot be decoded ({_reason(error)}); expected {FORMATS}") from error
    except TooLarge as error:
        raise TooLarge(f"{name}: {error}; shorten or compress it, or raise audio.max_bytes") from error


def window_starts(samples: int, length: int, windows: int) -> npt.NDArray[np.int64]:
    """[W] first samples of windows spread over so many samples; one where a single window holds them all."""
    return np.unique(np.linspace(0, max(0, samples - length), windows).round().astype(np.int64))


class _Decoder(Protocol):
    rate: int
    samples: int
    """as the header says, or as was counted where it does not"""
    clock_error: float
    """share of the song by which the places of blocks may be wrong"""

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        """Mono blocks with the number of their first sample, ascending, from `start` or a little before it on, to the
        end of the song; `length` is how many samples will be wanted.
        """


def _windows(decoder: _Decoder, audio: AudioSettings, name: str) -> Windows:
    rate, samples = decoder.rate, decoder.samples
    if not _RATES[0] <= rate <= _RATES[1]:
        raise UndecodableAudio(f"{name}: {rate:,} Hz, allowed {_RATES[0]:,} to {_RATES[1]:,} Hz; encode it again")
    if samples <= 0:
        raise UndecodableAudio(f"{name}: holds no audio; expected {FORMATS}")
    if samples / rate > audio.max_duration_s:
        raise AudioTooLong(
            f"{name}: {samples / rate:,.0f} s of audio, limit {audio.max_duration_s:,.0f} s; "
            "trim it or raise audio.max_duration_s"
        )
    length = round(audio.window_s * rate)
    starts = window_starts(samples, length, audio.windows)
    waveform, missing, reached = _filled(decoder, starts, length, samples)
    if _MISSING_S * rate < samples - reached <= decoder.clock_error * samples:  # its clock is fast; by it, it ends here
        samples = reached
        starts = window_starts(samples, length, audio.windows)
        waveform, missing, reached = _filled(decoder, starts, length, samples)
    if missing > _MISSING_S * rate:
        if samples - reached > _MISSING_S * rate:
            raise TruncatedAudio(
                f"{name}: its header promises {samples / rate:.1f} s, decoding ended at {reached / rate:.1f} s; "
                "upload it again"
            )
        raise UndecodableAudio(f"{name}: damaged, {missing / rate:.1f} s of a window are missing")
    return Windows(samples / rate, rate, (starts / rate).astype(np.float32), waveform)


def _filled(
    decoder: _Decoder, starts: npt.NDArray[np.int64], length: int, samples: int
) -> tuple[Waveform, int, int]:
    """The windows, the most samples that one of them lacks, and the sample behind the last that was decoded."""
    waveform = np.zeros((len(starts), length), np.float32)
    filled = np.zeros(len(starts), np.int64)
    reached = 0
    for first, last in _spans(starts, length, round(_GAP_S * decoder.rate)):
        for at, block in decoder.blocks(first, last - first):
            for window, start in enumerate(starts.tolist()):
                begin, end = max(at, start), min(at + len(block), start + length)
                if begin < end:
                    waveform[window, begin - start : end - start] = block[begin - at : end - at]
                    filled[window] += end - begin
            reached = at + len(block)
            if reached >= last:
                break
    return waveform, int((np.minimum(length, samples - starts) - filled).max()), reached


def _spans(starts: npt.NDArray[np.int64], length: int, gap: int) -> list[tuple[int, int]]:
    """What to decode at a stretch: windows as [first, last) samples, those less than a gap apart as one."""
    spans: list[tuple[int, int]] = []
    for start in starts.tolist():
        if spans and start - spans[-1][1] < gap:
            spans[-1] = (spans[-1][0], start + length)
        else:
            spans.append((start, start + length))
    return spans


@contextmanager
def _opened(file: RangedFile, source: Source, name: str) -> Iterator[_Decoder]:
    """By magic number: libsndfile for wav and aiff, which it takes a quarter of the time for, FFmpeg for the rest."""
    head = file.read(64) or b""
    file.seek(0)
    file.check()
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"BW64", b"FORM"):
        samples = find_samples(file)
        plain = RangedFile(samples.plain(source), file.max_bytes)
        # soundfile opens under a lock that all decoders of the process share: nothing may be waited for meanwhile
        plain.prefetch(len(samples.header) + max(samples.block, _FIRST_BYTES))
        with soundfile.SoundFile(plain) as opened:
            yield _SoundFile(opened, plain, samples, name)
        return
    demuxer = _demuxer(head)
    if demuxer is None:
        raise UndecodableAudio(f"{name}: no sound file we know (begins with {head[:8].hex(' ')}); expected {FORMATS}")
    counted = _must_be_counted(file, head)
    # an mp3 is then sought by the table in its header; without, FFmpeg reads it from its beginning to any place
    options = {} if counted else {"fflags": "fastseek"}
    with av.open(file, format=demuxer, options=options, metadata_errors="ignore") as container:
        decoder = _FFmpeg(container, file, counted=counted, name=name)
        decoder.clock_error = _TABLE_ERROR if demuxer == "mp3" and not counted else 0.0
        yield decoder


def _demuxer(head: bytes) -> str | None:
    """FFmpeg's name of what the first bytes announce."""
    if head[:4] in (b"fLaC", b"OggS"):
        return "flac" if head[:4] == b"fLaC" else "ogg"
    if head[4:8] == b"ftyp":
        return "mov"
    if head[:3] == b"ID3":
        return "mp3"
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # an MPEG frame; layer bits 00 mean AAC in ADTS
        return "mp3" if head[1] & 0x06 else "aac"
    return None


def _must_be_counted(file: RangedFile, head: bytes) -> bool:
    """Whether all of it must be read to know how long it is: streamed flac, bare AAC, mp3 without a Xing header.

    So, too, where an mp3 of variable bit rate is so long that the hundred places in its header lie too far apart.
    """
    if head[:4] == b"fLaC":
        return not int.from_bytes(head[21:26], "big") & 0xF_FFFF_FFFF
    if _demuxer(head) != "mp3":
        return _demuxer(head) == "aac"
    tag = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(tag if head[:3] == b"ID3" else 0)
    first = file.read(4096) or b""
    file.seek(0)
    file.check()
    if b"VBRI" in first:
        return False
    variable = b"Xing" in first
    _, _, xing = first.partition(b"Xing" if variable else b"Info")
    flags, frames = int.from_bytes(xing[:4], "big"), int.from_bytes(xing[4:8], "big")
    return not (flags & 1 and frames) or (variable and frames > _TABLE_FRAMES)


class _SoundFile:
    """libsndfile, which knows where every sample of a wav lies."""

    def __init__(self, opened: soundfile.SoundFile, file: RangedFile, samples: Samples, name: str) -> None:
        self.rate: int = opened.samplerate
        self.samples = opened.frames * samples.promised // max(1, samples.size)
        self.clock_error = 0.0
        self._opened, self._file, self._name = opened, file, name

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        try:
            self._opened.seek(min(start, self._opened.frames))
            self._file.expect(length * self._file.size // self.samples)
            at, end, most = start, start + length, _BLOCK // self._opened.channels
            while at < end and len(block := self._opened.read(min(most, end - at), dtype="float32", always_2d=True)):
                self._file.check()
                yield at, _mono(block)
                at += len(block)
            self._file.check()
        except soundfile.SoundFileError as error:
            self._file.check()
            raise TruncatedAudio(
                f"{self._name}: cut short or damaged, decoding stopped ({_reason(error)}); send it again"
            ) from error


def _reason(error: Exception) -> str:
    """What a decoder says, without the address of our file in memory."""
    return str(getattr(error, "error_string", None) or getattr(error, "strerror", None) or error).strip()


class _FFmpeg:
    """FFmpeg, for all that is compressed."""

    def __init__(self, container: av.container.InputContainer, file: RangedFile, *, counted: bool, name: str) -> None:
        file.check()
        if not container.streams.audio:
            raise UndecodableAudio(f"{name}: holds no audio stream; expected {FORMATS}")
        self._container, self._file, self._name = container, file, name
        self._stream = stream = container.streams.audio[0]
        if stream.codec_context is None:  # then it has none of the attributes below
            raise UndecodableAudio(f"{name}: its audio is in a codec that is not known here; expected {FORMATS}")
        if not stream.rate or stream.time_base is None:
            raise UndecodableAudio(f"{name}: its audio stream names no sample rate; encode it again")
        self.rate, self.clock_error = stream.rate, 0.0
        self._tick_s = float(stream.time_base)
        self._begin = stream.start_time or 0  # ticks
        ticks = self._counted_ticks() if counted else stream.duration or 0
        self.samples = round(ticks * self._tick_s * self.rate)
        self._lead_s = 0.0 if container.format.name == "flac" else _LEAD_S
        self._fresh = not counted  # nothing was read of it yet

    def _counted_ticks(self) -> int:
        """How long all its packets last; none is decoded. FFmpeg remembers where they lie, and seeks by that."""
        ticks = sum(packet.duration or 0 for packet in self._container.demux(self._stream))
        self._file.check()
        return ticks

    def blocks(self, start: int, length: int) -> Iterator[tuple[int, Waveform]]:
        if start or not self._fresh:
            lead_s = max(0.0, start / self.rate - self._lead_s)
            try:
                self._container.seek(round(lead_s / self._tick_s) + self._begin, stream=self._stream, backward=True)
            except av.EOFError:  # the place lies behind the last byte: there is nothing to decode
                self._file.check()
                return
            self._file.check()
        self._fresh = False
        self._file.expect(round((length / self.rate + self._lead_s) * self._file.size * self.rate / self.samples))
        for at, frame in _joined(self._placed(start), start + length):
            yield at, _mono_of(frame)

    def _placed(self, start: int) -> Iterator[tuple[int, av.AudioFrame]]:
        """Frames that reach beyond `start`, with the number of their first sample."""
        at = start
        for frame in self._frames():
            if frame.sample_rate != self.rate:
                raise UndecodableAudio(f"{self._name}: goes from {self.rate:,} to {frame.sample_rate:,} Hz within")
            if frame.pts is not None:
                at = round((frame.pts - self._begin) * self._tick_s * self.rate)
            if at + frame.samples > start:
                yield at, frame
            at += frame.samples

    def _frames(self) -> Iterator[av.AudioFrame]:
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.InvalidDataError:  # players pass over it too; what lacks in the end is counted
                frames = []
            self._file.check()
            yield from frames


_MOST_PLANES = 7  # more, and PyAV counts them beyond the end of FFmpeg's table of them
_FULL_SCALE = {"u1": 2**7, "i2": 2**15, "i4": 2**31, "i8": 2**63}


def _joined(placed: Iterator[tuple[int, av.AudioFrame]], end: int) -> Iterator[tuple[int, av.AudioFrame]]:
    """Frames that follow one another as one, of `_BLOCK` samples or up to `end`: to Python a long one costs no more."""
    first, joined, kind = 0, av.AudioFifo(), ("", "")
    for at, frame in placed:
        if joined.samples and (at != first + joined.samples or kind != (frame.format.name, frame.layout.name)):
            yield first, _taken(joined)
        if not joined.samples:
            first, joined, kind = at, av.AudioFifo(), (frame.format.name, frame.layout.name)
        frame.pts = None  # else they would have to be where it counts them to be
        joined.write(frame)
        if joined.samples * frame.layout.nb_channels >= _BLOCK or first + joined.samples >= end:
            yield first, _taken(joined)
    if joined.samples:
        yield first, _taken(joined)


def _taken(joined: av.AudioFifo) -> av.AudioFrame:
    frame = joined.read()
    assert frame is not None  # none is asked for that holds nothing
    return frame


def _mono_of(frame: av.AudioFrame) -> Waveform:
    if frame.layout.nb_channels > _MOST_PLANES:
        (frame,) = av.AudioResampler(format="flt").resample(frame)
    block = frame.to_ndarray()
    block = block.T if frame.format.is_planar else block.reshape(-1, frame.layout.nb_channels)
    scale = _FULL_SCALE.get(block.dtype.str[1:], 1)
    samples = block.astype(np.float32, copy=False)
    if block.dtype == np.uint8:  # the only ones whose silence is not zero
        samples = samples - np.float32(scale)
    return _mono(samples, 1 / scale)


def _mono(block: Waveform, gain: float = 1.0) -> Waveform:
    """The mean of the channels: [N, channels] -> [N]. A product takes 1/50 of the time of numpy's mean."""
    channels = block.shape[1]
    mixed: Waveform = block @ np.full(channels, gain / channels, np.float32)
    return mixed
