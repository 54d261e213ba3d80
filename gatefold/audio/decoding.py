"""Decoding of evenly spaced windows of waveform from a sound file: no more is read or decoded than they need.

What a file is, `containers` says by its content. Positions in headers are believed as long as nothing that is decoded
contradicts them; else the song is decoded from its beginning. Knows nothing of spectrograms, URIs or Ray.

Windows of `length` samples each, three of them; then what a decoder that jumps decodes for them, one span a line:

    0                                                    samples
    |-------------------------- song -------------------------|
    [== 0 ==]               [== 1 ==]                 [== 2 ==]
    [== 0 ==]~                                                     ~ what is left of the last block
                         << [== 1 ==]~                             << lead, of all but wav, aiff, flac: decoded, dropped
                                                   << [== 2 ==]+   + to see that the song ends where it should

Windows less than `gap_s` apart are one span, decoded through: a jump costs as much.

Shape legend: W = windows, N = samples.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
import soundfile

from gatefold.audio import flac, mpeg, ogg, riff
from gatefold.audio.containers import FORMATS, Container, identify
from gatefold.audio.decoders import Decoder, FFmpegDecoder, Misplaced, SoundFileDecoder, Waveform, WholeDecoder, reason
from gatefold.config import AudioSettings
from gatefold.errors import AudioTooLong, EmptyFile, TooLarge, TruncatedAudio, UndecodableAudio
from gatefold.ranged import BytesSource, PrefixedRange, RangedFile, Source

__all__ = ["FORMATS", "Waveform", "Windows", "decode_windows", "window_starts"]

_RATES = (4_000, 768_000)  # hertz
_FIRST_BYTES = 1 << 15  # of samples: what libsndfile reads while it opens a file of ADPCM, and what is fetched anyhow
_MISSING_S = 0.5  # seconds that a window may lack of what the header promises
_BEYOND_S = 0.1  # seconds that a song may last beyond what its header promises


@dataclass(frozen=True)
class Windows:
    """Pieces of one waveform, mono: the mean of its channels, or one where they cancel each other."""

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

    Each window holds what a decoder that begins at the first sample has at the place that is stated.

    Args:
        source: the file, in one of FORMATS.
        audio: number and length of the windows, and limits of the song.
        name: what error messages call the song.

    Raises: EmptyFile, TooLarge, UndecodableAudio (caused by a MemoryError where memory was short), TruncatedAudio,
    AudioTooLong; and what the source raises.
    """
    source = BytesSource(source) if isinstance(source, bytes) else source
    file = RangedFile(source, audio.max_bytes)
    if not file.size:
        raise EmptyFile(f"{name}: the file is empty")
    try:
        found = identify(file)
        if found is None:
            file.seek(0)
            head = file.read(8)
            raise UndecodableAudio(f"{name}: no sound file we know (begins with {head.hex(' ')}); expected {FORMATS}")
        # samples may be infinite or no numbers; that is for the caller to judge
        with np.errstate(all="ignore"):
            song = _Song(source, file, found, audio, name)
            try:
                return _decoded(song)
            except av.InvalidDataError:
                if not song.cut_behind_pages():
                    raise
            return _decoded(song)
    except (av.FFmpegError, soundfile.SoundFileError, ValueError, EOFError) as error:
        file.check()
        raise UndecodableAudio(f"{name}: cannot be decoded ({reason(error)}); expected {FORMATS}") from error
    except TooLarge as error:
        raise TooLarge(f"{name}: {error}; shorten or compress it, or raise {audio.bytes_setting}") from error


def window_starts(samples: int, length: int, windows: int) -> npt.NDArray[np.int64]:
    """int64 [W], first samples of windows spread evenly over a song, ascending; [1] where a single window holds all of
    it.

    Args:
        samples: of the whole song.
        length: of a window, in samples.
        windows: how many are wanted; a short song has fewer different ones.
    """
    return np.unique(np.linspace(0, max(0, samples - length), windows).round().astype(np.int64))


# ---- opening --------------------------------------------------------------------------------------------------------


class _Song:
    """A file that is to be decoded: its own bytes, what kind it is, and what its errors call it."""

    def __init__(self, source: Source, file: RangedFile, found: Container, audio: AudioSettings, name: str) -> None:
        self._file = file if found.start == 0 else None  # what was read of it already need not be read again
        self.source, self.kind, self.audio, self.name = found.of(source), found.kind, audio, name
        self.samples: riff.Samples | None = None
        if self.kind in ("wav", "aiff"):
            self.samples = riff.find_samples(self.file())

    def file(self) -> RangedFile:
        """The file from its beginning."""
        file = self._file or RangedFile(self.source, self.audio.max_bytes)
        file.seek(0)
        return file

    def cut_behind_pages(self) -> bool:
        """Leaves out what follows the last page of an ogg; whether anything did. FFmpeg gives up where the next page is
        more than 64 KiB away."""
        end = ogg.end_of_pages(self.file()) if self.kind == "ogg" else self.source.size
        if not 0 < end < self.source.size:
            return False
        self._file, self.source = None, PrefixedRange(b"", self.source, 0, end)
        return True

    @contextmanager
    def sought(self) -> Iterator[Decoder]:
        """A decoder that jumps to each window. Raises: Misplaced where the file is known to mislead it."""
        if self.samples is not None and self.samples.tag in (0, *riff.PCM_TAGS):
            file = RangedFile(self.samples.plain(self.source), self.audio.max_bytes)
            # soundfile opens under a lock that all decoders of the process share: nothing may be waited for meanwhile
            file.prefetch(len(self.samples.header) + max(self.samples.block, _FIRST_BYTES))
            with soundfile.SoundFile(file) as opened:
                yield SoundFileDecoder(opened, file, self.samples, self.name)
        elif self.kind == "wav":
            raise Misplaced(0)  # FFmpeg seeks exactly in none of its rarer codecs, mp3 among them
        else:
            with self._ffmpeg() as decoder:
                yield decoder

    @contextmanager
    def _ffmpeg(self) -> Iterator[Decoder]:
        file = self.file()
        layout = mpeg.layout(file) if self.kind == "mp3" else mpeg.UNKNOWN
        if not layout.honest:
            raise Misplaced(layout.samples)
        file.seek(0)
        grid = layout.grid
        by_index = self.kind == "aac" or (self.kind == "mp3" and grid is None)
        by_packets = self.kind == "flac" and not flac.samples(file)
        # an mp3 of constant bit rate is sought by arithmetic; any other is read from its beginning once
        options = {"fflags": "fastseek"} if grid else {}
        with av.open(file, format=self.kind, options=options, metadata_errors="ignore") as container:
            count = "index" if by_index else "packets" if by_packets else None
            decoder = FFmpegDecoder(container, file, self.name, count=count, grid=grid)  # type: ignore[arg-type]
            if by_index and not layout.agrees(file, decoder.counted):
                raise Misplaced(layout.samples)
            yield decoder
            if self.kind == "ogg" and not ogg.is_one_stream(file):
                raise Misplaced(0)

    def whole(self, misplaced: Misplaced) -> Decoder:
        """A decoder that begins at the first sample.

        Raises: TruncatedAudio where the file promised more than is there, and ends in the midst of a frame.
        """
        source = self.source if self.samples is None else self.samples.plain(self.source)
        decoder = WholeDecoder(source, self.kind, self.audio.max_bytes, self.audio.max_duration_s, self.name)
        promised = misplaced.promised
        if self.samples is not None:
            promised = decoder.samples * self.samples.promised // max(1, self.samples.size)
        missing = decoder.samples and promised - decoder.samples > _MISSING_S * decoder.rate
        if missing and self._is_cut_short(decoder, misplaced):
            raise TruncatedAudio(_truncated(self.name, promised, decoder.samples, decoder.rate))
        return decoder

    def _is_cut_short(self, decoder: WholeDecoder, misplaced: Misplaced) -> bool:
        if self.kind == "mp3":
            file = self.file()
            return mpeg.ends_within_a_frame(file) or mpeg.layout(file).is_longer_than(file.size, decoder.samples)
        if self.kind == "flac":
            return not flac.is_whole(decoder.last_packet)
        return misplaced.cut_short or self.samples is not None


# ---- windows --------------------------------------------------------------------------------------------------------


def _decoded(song: _Song) -> Windows:
    try:
        with song.sought() as decoder:
            made = _windows(decoder, song.audio, song.name)
            decoder.confirm()
        return made
    except Misplaced as error:
        misplaced = error
    except av.PatchWelcomeError:  # of joined oggs
        misplaced = Misplaced(0)
    return _windows(song.whole(misplaced), song.audio, song.name)


def _windows(decoder: Decoder, audio: AudioSettings, name: str) -> Windows:
    rate, samples = decoder.rate, decoder.samples
    if samples <= 0:
        _doubt(decoder)
        raise UndecodableAudio(f"{name}: holds no audio; expected {FORMATS}")
    if not _RATES[0] <= rate <= _RATES[1]:
        raise UndecodableAudio(f"{name}: {rate:,} Hz, allowed {_RATES[0]:,} to {_RATES[1]:,} Hz; encode it again")
    if samples / rate > audio.max_duration_s:
        raise AudioTooLong(
            f"{name}: {samples / rate:,.0f} s of audio, limit {audio.max_duration_s:,.0f} s; "
            f"trim it or raise {audio.duration_setting}"
        )
    length = round(audio.window_s * rate)
    starts = window_starts(samples, length, audio.windows)
    waveform, missing, reached = _filled(decoder, starts, length, samples)
    if missing > _MISSING_S * rate or reached > samples + _BEYOND_S * rate:
        _doubt(decoder)
        if samples - reached > _MISSING_S * rate:
            raise TruncatedAudio(_truncated(name, samples, reached, rate))
        raise UndecodableAudio(f"{name}: damaged, {missing / rate:.1f} s of a window are missing")
    if decoder.mixer.cancels:
        decoder.mixer.take_first()
        waveform, _, _ = _filled(decoder, starts, length, samples)
    return Windows(samples / rate, rate, (starts / rate).astype(np.float32), waveform)


def _doubt(decoder: Decoder) -> None:
    """Raises: Misplaced where another way to decode may know better."""
    if isinstance(decoder, FFmpegDecoder):
        raise decoder.misplaced()


def _truncated(name: str, promised: int, reached: int, rate: int) -> str:
    return (
        f"{name}: its header promises {promised / rate:.1f} s, decoding ended at {reached / rate:.1f} s; "
        "upload it again"
    )


def _filled(
    decoder: Decoder, starts: npt.NDArray[np.int64], length: int, samples: int
) -> tuple[Waveform, int, int]:
    """The windows, the most samples that one of them lacks, and the sample behind the last that was decoded."""
    waveform = np.zeros((len(starts), length), np.float32)
    filled = np.zeros(len(starts), np.int64)
    reached = 0
    spans = _spans(starts, length, decoder.gap_s * decoder.rate)
    # behind the last window a little more is decoded, to see that the song ends where it should
    enough = [last for _, last in spans[:-1]] + [samples + round(_BEYOND_S * decoder.rate) + 1]
    for (first, last), end in zip(spans, enough, strict=True):
        for at, block in decoder.blocks(first, last - first):
            for window, start in enumerate(starts.tolist()):
                begin, stop = max(at, start), min(at + len(block), start + length)
                if begin < stop:
                    waveform[window, begin - start : stop - start] = block[begin - at : stop - at]
                    filled[window] += stop - begin
            reached = at + len(block)
            if reached >= end:
                break
    return waveform, int((np.minimum(length, samples - starts) - filled).max()), reached


def _spans(starts: npt.NDArray[np.int64], length: int, gap: float) -> list[tuple[int, int]]:
    """What to decode at a stretch: windows as [first, last) samples, those less than a gap apart as one."""
    spans: list[tuple[int, int]] = []
    for start in starts.tolist():
        if spans and start - spans[-1][1] < gap:
            spans[-1] = (spans[-1][0], start + length)
        else:
            spans.append((start, start + length))
    return spans
