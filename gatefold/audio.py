"""Ears: bytes of a song in, a few log-mel windows out. Batch and serving both hear through `listen`, so hear alike.

What a file is, its first bytes say; its name is never believed. The demuxer is chosen here and told to FFmpeg, which
could otherwise be talked into opening other files by a playlist. Knows nothing of URIs, of models, or of Ray.

Shape legend: W = windows, N = samples, M = mel bands, F = frames.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np
import numpy.typing as npt
import soundfile
import torch
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from gatefold.config import AudioSettings
from gatefold.errors import (
    AudioTooLong,
    AudioTooShort,
    EmptyFile,
    SilentAudio,
    TooLarge,
    TruncatedAudio,
    UndecodableAudio,
)

FORMATS = "wav, flac, mp3, ogg (vorbis, opus), m4a, aac or aiff"
_LOG_FLOOR = 1e-6  # mel power below this is inaudible; it also keeps the logarithm finite
_LOUDEST = 1e10  # of full scale: floats scaled like 32-bit integers pass, what would overflow in a spectrogram does not
_RATES = (4_000, 768_000)  # hertz
_FINEST_RATIO = 1_000  # terms of the resampling ratio; its kernel takes memory by their product
_BLOCK = 1 << 18  # samples decoded at a time, so that channels are mixed down before the next are read
_TRUNCATED_S = 0.5  # seconds that a decoder may fall short of what the header promises

Waveform = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Song:
    """What was heard of a song."""

    duration_s: float
    starts_s: npt.NDArray[np.float32]
    """[W], where each window begins"""
    log_mel: npt.NDArray[np.float16]
    """[W, M, F], natural logarithm of mel power, about -14 to 8"""


def listen(data: bytes, audio: AudioSettings, *, name: str = "song") -> Song:
    """The log-mel windows of an encoded song; the same bytes give the same bits on every machine of one kind.

    Args:
        data: the file, in one of FORMATS.
        audio: the ears.
        name: what error messages call the song.

    Raises: EmptyFile, TooLarge, UndecodableAudio, TruncatedAudio, AudioTooShort, AudioTooLong, SilentAudio.
    """
    waveform, rate = decode(data, audio, name=name)
    duration_s = len(waveform) / rate
    if duration_s < audio.min_duration_s:
        raise AudioTooShort(f"{name}: {duration_s:.2f} s of audio, at least {audio.min_duration_s:g} s are needed")
    peak = float(np.abs(waveform).max())
    if not peak <= _LOUDEST:  # nor may it be NaN
        raise UndecodableAudio(f"{name}: holds samples of {peak:g} times full scale, no sound; encode it again")
    if peak < 10 ** (audio.silence_dbfs / 20):
        raise SilentAudio(f"{name}: its loudest sample is {_dbfs(peak)}, it must exceed {audio.silence_dbfs:g} dBFS")
    starts_s, windows = cut_windows(waveform, rate, audio)
    return Song(duration_s, starts_s, log_mel(windows, rate, audio))


def decode(data: bytes, audio: AudioSettings, *, name: str = "song") -> tuple[Waveform, int]:
    """Mono waveform float32 [N] (mean of the channels) at its own sample rate in hertz.

    Raises: EmptyFile, TooLarge, UndecodableAudio, TruncatedAudio, AudioTooLong.
    """
    if not data:
        raise EmptyFile(f"{name}: the file is empty")
    if len(data) > audio.max_bytes:
        raise TooLarge(f"{name}: {len(data):,} bytes, limit {audio.max_bytes:,}; shorten or compress it")
    decoder = _decoder_for(data, name)
    try:
        waveform, rate, promised = decoder(data, audio, name)
    except (av.FFmpegError, soundfile.SoundFileError, ValueError) as error:
        raise UndecodableAudio(f"{name}: cannot be decoded ({str(error).strip()}); expected {FORMATS}") from error
    if not _RATES[0] <= rate <= _RATES[1]:
        raise UndecodableAudio(f"{name}: {rate:,} Hz, allowed {_RATES[0]:,} to {_RATES[1]:,} Hz; encode it again")
    if len(waveform) == 0:
        raise UndecodableAudio(f"{name}: holds no audio; expected {FORMATS}")
    if (promised - len(waveform)) / rate > _TRUNCATED_S:
        there_s = len(waveform) / rate
        raise TruncatedAudio(
            f"{name}: its header promises {promised / rate:.1f} s, only {there_s:.1f} s are there; upload it again"
        )
    return waveform, rate


def cut_windows(waveform: Waveform, rate: int, audio: AudioSettings) -> tuple[npt.NDArray[np.float32], Waveform]:
    """Starts in seconds [W] and windows [W, N] at the song's own rate, spread evenly from its beginning to its end."""
    length = round(audio.window_s * rate)
    last = len(waveform) - length
    if last <= 0:
        return np.zeros(1, np.float32), np.pad(waveform, (0, -last))[None]
    starts = np.unique(np.linspace(0, last, audio.windows).round().astype(np.int64))
    return (starts / rate).astype(np.float32), np.stack([waveform[s : s + length] for s in starts])


def log_mel(windows: Waveform, rate: int, audio: AudioSettings) -> npt.NDArray[np.float16]:
    """float16 [W, M, F] of windows float32 [W, N] sampled at `rate` hertz."""
    # exact for the rates of the world (160/441 for 44.1 to 16 kHz), within a thousandth for any other
    ratio = Fraction(audio.sample_rate, rate).limit_denominator(_FINEST_RATIO)
    with torch.inference_mode():
        waveform = resample(torch.from_numpy(windows), ratio.denominator, ratio.numerator)
        waveform = torch.nn.functional.pad(waveform, (0, audio.window_length - waveform.shape[-1]))  # negative: crops
        power = _mel(audio)(waveform)[..., : audio.frames]
        log_power: npt.NDArray[np.float16] = power.add_(_LOG_FLOOR).log_().to(torch.float16).numpy()
    return log_power


def spectrogram_picture(song: Song) -> npt.NDArray[np.uint8]:
    """What was heard, as a picture uint8 [M, W * F, 3]: windows side by side, low notes below, black, ember, white."""
    level = np.concatenate(list(song.log_mel.astype(np.float32)), axis=1)[::-1]
    low, high = np.quantile(level, [0.05, 0.999])
    level = np.clip((level - low) / max(high - low, 1e-6), 0, 1)
    stops = np.array([0.0, 0.3, 0.55, 0.8, 1.0])
    colours = np.array([[12, 10, 20], [74, 26, 84], [190, 54, 70], [245, 150, 66], [255, 244, 214]])
    channels = [np.interp(level, stops, colours[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


@lru_cache(maxsize=8)
def _mel(audio: AudioSettings) -> MelSpectrogram:
    return MelSpectrogram(
        sample_rate=audio.sample_rate,
        n_fft=audio.n_fft,
        win_length=audio.win_length,
        hop_length=audio.hop_length,
        f_min=audio.f_min,
        f_max=audio.f_max,
        n_mels=audio.n_mels,
        norm="slaney",
        mel_scale="slaney",
    ).eval()


_Decoder = Callable[[bytes, AudioSettings, str], tuple[Waveform, int, int]]


def _decoder_for(data: bytes, name: str) -> _Decoder:
    """By magic number, to the faster: soundfile for mp3 and flac (1.5 times) and wav (10), FFmpeg for opus (2.8)."""
    head = data[:12]
    if head[:4] == b"fLaC" and not int.from_bytes(data[21:26], "big") & 0xF_FFFF_FFFF:
        return _ffmpeg("flac")  # streamed, of unknown length, which libsndfile takes for an infinite one
    if head[:4] in (b"RIFF", b"RF64", b"fLaC", b"FORM") or head[:3] == b"ID3":
        return _decode_soundfile
    if head[:4] == b"OggS":
        return _ffmpeg("ogg")
    if head[4:8] == b"ftyp":
        return _ffmpeg("mov")
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:  # an MPEG frame; layer bits 00 mean AAC in ADTS
        return _decode_soundfile if head[1] & 0x06 else _ffmpeg("aac")
    raise UndecodableAudio(f"{name}: not a sound file we know (it begins with {head[:8].hex(' ')}); expected {FORMATS}")


def _decode_soundfile(data: bytes, audio: AudioSettings, name: str) -> tuple[Waveform, int, int]:
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        _check_duration(file.frames / file.samplerate, audio, name)
        try:
            blocks = list(_mixed_down(file, audio, name))
        except soundfile.SoundFileError as error:
            raise TruncatedAudio(f"{name}: cut short or damaged, decoding stopped ({error}); send it again") from error
        return _joined(blocks), file.samplerate, max(file.frames, _promised_frames(data, file.frames))


def _mixed_down(file: soundfile.SoundFile, audio: AudioSettings, name: str) -> Iterator[Waveform]:
    """Not by `file.blocks`, which believes the header and repeats old samples where the file ends before."""
    samples = 0
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        samples += len(block)
        _check_duration(samples / file.samplerate, audio, name)
        yield _mono(block)


def _promised_frames(data: bytes, frames: int) -> int:
    """Frames that the size field of a wav or aiff promises; libsndfile says only how many are there."""
    sizes = {
        b"RIFF": int.from_bytes(data[4:8], "little"),
        b"FORM": int.from_bytes(data[4:8], "big"),
        b"RF64": int.from_bytes(data[20:28], "little"),
    }
    size = sizes.get(data[:4], 0) + 8
    streamed = size > 0xFFFF_FFFF  # written before its length was known
    return 0 if streamed else frames * size // len(data)


def _ffmpeg(demuxer: str) -> _Decoder:
    def decode_ffmpeg(data: bytes, audio: AudioSettings, name: str) -> tuple[Waveform, int, int]:
        with av.open(io.BytesIO(data), format=demuxer) as container:
            if not container.streams.audio:
                raise UndecodableAudio(f"{name}: holds no audio stream; expected {FORMATS}")
            stream = container.streams.audio[0]
            if not stream.rate:
                raise UndecodableAudio(f"{name}: its audio stream names no sample rate; encode it again")
            promised_s = float(stream.duration * stream.time_base) if stream.duration else 0.0
            _check_duration(promised_s, audio, name)
            to_float = av.AudioResampler(format="fltp")
            blocks, samples = [], 0
            for frame in container.decode(stream):
                for part in to_float.resample(frame):
                    blocks.append(_mono(part.to_ndarray().T))
                    samples += part.samples
                _check_duration(samples / stream.rate, audio, name)  # the header may have lied
            return _joined(blocks), stream.rate, round(promised_s * stream.rate)

    return decode_ffmpeg


def _mono(block: Waveform) -> Waveform:
    """The mean of the channels: [N, channels] -> [N]. A product takes 1/50 of the time of numpy's mean."""
    weights = np.full(block.shape[1], 1 / block.shape[1], np.float32)
    mixed: Waveform = block @ weights
    return mixed


def _joined(blocks: list[Waveform]) -> Waveform:
    return np.concatenate(blocks, dtype=np.float32) if blocks else np.zeros(0, np.float32)


def _check_duration(duration_s: float, audio: AudioSettings, name: str) -> None:
    if duration_s > audio.max_duration_s:
        raise AudioTooLong(
            f"{name}: {duration_s:,.0f} s of audio, limit {audio.max_duration_s:,.0f} s; "
            "trim it or raise audio.max_duration_s"
        )


def _dbfs(peak: float) -> str:
    return f"{20 * np.log10(peak):.0f} dBFS" if peak > 0 else "digital silence"
