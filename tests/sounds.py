"""Songs to test with: real clips, tones, and a melody that nowhere repeats, in any container and codec we read; and
small settings for them. Quickly imported: neither torch nor models.
"""

import io
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile

from gatefold.config import AudioSettings

MUSIC = Path(__file__).parents[1] / "gatefold" / "examples"
CLIPS = sorted(path for path in MUSIC.iterdir() if path.suffix != ".csv")
"""Seventeen real songs in seven kinds of file; ATTRIBUTION.csv says whose they are."""

AUDIO = AudioSettings(
    sample_rate=8_000, n_fft=256, win_length=256, hop_length=80, n_mels=16, f_max=4_000, window_s=0.64
)
"""Small settings: log_mel [W, 16, 64]."""

Samples = npt.NDArray[np.float32]


def tone(duration_s: float, rate: int = 16_000, *, hertz: float = 440.0, level: float = 0.5) -> Samples:
    """A sine, float32 [N], of amplitude `level`."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(duration_s * rate)) / rate)).astype(np.float32)


def encoded(samples: Samples, rate: int = 16_000, *, format: str = "WAV", subtype: str | None = None) -> bytes:
    """A sound file of mono [N] or interleaved [N, channels] samples, in any format that libsndfile writes."""
    sink = io.BytesIO()
    soundfile.write(sink, samples, rate, format=format, subtype=subtype)
    return sink.getvalue()


def music(duration_s: float, rate: int = 44_100) -> Samples:
    """A melody in stereo, [N, 2], no second of it like another."""
    time = np.arange(round(duration_s * rate)) / rate
    random = np.random.default_rng(0)
    notes = random.uniform(100, 2_000, int(duration_s * 4) + 1)[(time * 4).astype(int)]
    voice = np.sin(2 * np.pi * np.cumsum(notes) / rate) * 0.3
    noise = random.normal(0, 0.02, len(time))
    return np.stack([voice + noise, voice - noise], axis=1).astype(np.float32)


def written(samples: Samples, format: str, subtype: str | None = None, rate: int = 44_100, **more: object) -> bytes:
    """By libsndfile, in pieces, as its vorbis encoder wants them."""
    sink = io.BytesIO()
    with soundfile.SoundFile(sink, "w", rate, samples.shape[1], format=format, subtype=subtype, **more) as file:
        for start in range(0, len(samples), rate):
            file.write(samples[start : start + rate])
    return sink.getvalue()


def muxed(
    samples: Samples, codec: str, container: str, rate: int = 44_100, bit_rate: int = 128_000, **options: str
) -> bytes:
    """By FFmpeg, in stereo; `options` are the encoder's own."""
    sink = io.BytesIO()
    with av.open(sink, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="stereo")
        stream.bit_rate, stream.options = bit_rate, options
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        whole.sample_rate, whole.pts = rate, 0
        cut = av.AudioResampler(format="fltp", layout="stereo", rate=rate, frame_size=stream.codec_context.frame_size)
        for frame in [*cut.resample(whole), *cut.resample(None)]:
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return sink.getvalue()
