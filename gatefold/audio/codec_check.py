"""Check of this machine's codecs: a tone is encoded in every format that is read, and decoded again."""

import io
from collections.abc import Callable

import av
import numpy as np
import numpy.typing as npt
import soundfile

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings
from gatefold.errors import GatefoldError

_RATE = 44_100
_TONE_S = 2.0


def check_codecs() -> dict[str, str | None]:
    """By format what is wrong with it, or None where the tone was decoded."""
    return {name: _fault_of(write) for name, write in WRITERS.items()}


def _fault_of(write: Callable[[], bytes]) -> str | None:
    try:
        extract_log_mel(write(), AudioSettings(), name="the tone")
    except (GatefoldError, soundfile.SoundFileError, av.FFmpegError, ValueError) as error:
        return str(error)
    return None


def _tone(rate: int) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(round(_TONE_S * rate)) / rate)).astype(np.float32)


def _soundfile(container: str, codec: str | None = None, rate: int = _RATE) -> Callable[[], bytes]:
    def write() -> bytes:
        sink = io.BytesIO()
        soundfile.write(sink, _tone(rate), rate, format=container, subtype=codec)
        return sink.getvalue()

    return write


def _ffmpeg(container: str) -> Callable[[], bytes]:
    """AAC."""

    def write() -> bytes:
        sink = io.BytesIO()
        with av.open(sink, "w", format=container) as file:
            stream = file.add_stream("aac", rate=_RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(_tone(_RATE)[None], format="fltp", layout="mono")
            frame.sample_rate = _RATE
            file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
        return sink.getvalue()

    return write


WRITERS: dict[str, Callable[[], bytes]] = {
    "wav": _soundfile("WAV"),
    "flac": _soundfile("FLAC"),
    "mp3": _soundfile("MP3"),
    "vorbis": _soundfile("OGG", "VORBIS"),
    "opus": _soundfile("OGG", "OPUS", rate=48_000),
    "m4a": _ffmpeg("ipod"),
    "aac": _ffmpeg("adts"),
    "aiff": _soundfile("AIFF"),
}
"""Of every format in `decoding.FORMATS`."""
