"""Speed of log-mel extraction on one core, and how little of a song is read: ours beside librosa, a plain loop of
PyAV and torchaudio, and decoding alone.

Three windows of 10 s out of songs of 200 s, made of the real clips, in each format; interleaved in one run, one thread,
the best of several turns each. Writes results/extraction.md beside this file. `make bench-extraction`.
"""

import argparse
import io
import json
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from functools import partial
from pathlib import Path

import av
import librosa
import numpy as np
import numpy.typing as npt
import soundfile
import torch
from rich.console import Console
from torchaudio.functional import resample
from torchaudio.transforms import MelSpectrogram

from gatefold.audio.decoding import decode_windows
from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings
from gatefold.ranged import BytesSource

CLIPS = Path(__file__).parents[1] / "gatefold" / "examples"
RESULTS = Path(__file__).parent / "results" / "extraction.md"
AUDIO = AudioSettings(window_s=10.0)
SONG_S, RATE, TURNS, WRITTEN = 200, 44_100, 7, 4
Stereo = npt.NDArray[np.float32]


class CountedSource(BytesSource):
    """A song in memory that knows how much of it was read."""

    bytes_read = 0

    def read_at(self, offset: int, length: int) -> bytes | memoryview:
        data = super().read_at(offset, length)
        self.bytes_read += len(data)
        return data


# ---- songs ----------------------------------------------------------------------------------------------------------


def music(rate: int, duration_s: int, from_s: int = 0) -> Stereo:
    """The clips one after another, again and again: [N, 2], of which the first second is number `from_s`."""
    pieces = []
    for clip in sorted(path for path in CLIPS.iterdir() if path.suffix != ".csv"):
        with av.open(str(clip)) as container:
            to_stereo = av.AudioResampler(format="fltp", layout="stereo", rate=rate)
            pieces += [part.to_ndarray() for frame in container.decode(audio=0) for part in to_stereo.resample(frame)]
    once = np.roll(np.concatenate(pieces, axis=1).T, -from_s * rate, axis=0)
    return np.ascontiguousarray(np.resize(once, (duration_s * rate, 2)))


def by_soundfile(samples: Stereo, rate: int, format: str, subtype: str) -> bytes:
    sink = io.BytesIO()
    with soundfile.SoundFile(sink, "w", rate, 2, format=format, subtype=subtype) as file:
        for start in range(0, len(samples), rate):  # its vorbis encoder fails on long pieces
            file.write(samples[start : start + rate])
    return sink.getvalue()


def by_ffmpeg(samples: Stereo, rate: int, codec: str, format: str, bit_rate: int) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, "w", format=format) as container:
        stream = container.add_stream(codec, rate=rate, layout="stereo")
        stream.bit_rate = bit_rate
        whole = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout="stereo")
        whole.sample_rate, whole.pts = rate, 0
        cut = av.AudioResampler(format="fltp", layout="stereo", rate=rate, frame_size=stream.codec_context.frame_size)
        for frame in [*cut.resample(whole), *cut.resample(None)]:
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def songs(duration_s: int, from_s: int = 0) -> dict[str, bytes]:
    samples = music(RATE, duration_s, from_s)
    return {
        "wav": by_soundfile(samples, RATE, "WAV", "PCM_16"),
        "flac": by_soundfile(samples, RATE, "FLAC", "PCM_16"),
        "mp3": by_ffmpeg(samples, RATE, "libmp3lame", "mp3", 192_000),
        "m4a": by_ffmpeg(samples, RATE, "aac", "ipod", 160_000),
        "ogg": by_soundfile(samples, RATE, "OGG", "VORBIS"),
        "opus": by_soundfile(music(48_000, duration_s, from_s), 48_000, "OGG", "OPUS"),
    }


def write_songs(folder: Path) -> None:
    """Some of each format: the first decode of a format finds cold caches."""
    folder.mkdir(parents=True, exist_ok=True)
    for turn in range(WRITTEN):
        for format, data in songs(SONG_S, from_s=7 * turn).items():
            (folder / f"song-{turn}.{format}").write_bytes(data)


# ---- the ways -------------------------------------------------------------------------------------------------------


def starts_s() -> list[float]:
    return [float(start_s) for start_s in np.linspace(0, SONG_S - AUDIO.window_s, AUDIO.windows)]


def with_librosa(path: Path) -> None:
    """(a) the song loaded, at our sample rate, and the log-mel of its windows."""
    song, rate = librosa.load(path, sr=AUDIO.sample_rate)
    for start_s in starts_s():
        librosa_log_mel(song[round(start_s * rate) :][: AUDIO.window_length])


def with_librosa_by_offset(path: Path) -> None:
    """(a') each window loaded alone, as those do who know that they can."""
    for start_s in starts_s():
        window, _ = librosa.load(path, sr=AUDIO.sample_rate, offset=start_s, duration=AUDIO.window_s)
        librosa_log_mel(window)


def librosa_log_mel(window: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    power = librosa.feature.melspectrogram(
        y=window,
        sr=AUDIO.sample_rate,
        n_fft=AUDIO.n_fft,
        hop_length=AUDIO.hop_length,
        n_mels=AUDIO.n_mels,
        fmin=AUDIO.f_min,
    )
    log_mel: npt.NDArray[np.float32] = np.log(power + 1e-6)
    return log_mel


def with_a_plain_loop(mel: MelSpectrogram, path: Path) -> None:
    """(b) PyAV decodes the song, torchaudio does the rest."""
    with av.open(str(path)) as container:
        to_mono = av.AudioResampler(format="fltp", layout="mono")
        frames = [part.to_ndarray() for frame in container.decode(audio=0) for part in to_mono.resample(frame)]
        rate = container.streams.audio[0].rate
    waveform = torch.from_numpy(np.concatenate(frames, axis=1))
    for start_s in starts_s():
        start = round(start_s * rate)
        window = waveform[:, start : start + round(AUDIO.window_s * rate)]
        torch.log(mel(resample(window, rate, AUDIO.sample_rate)) + 1e-6)


def by_decoding_alone(data: bytes) -> None:
    """(c) with the decoder of ours."""
    decode_windows(data, AUDIO)


def by_pyav_alone(data: bytes) -> None:
    """(c) with PyAV, which seeks to each window and decodes it, and stops there."""
    with av.open(io.BytesIO(data), options={"fflags": "fastseek"}) as container:
        stream = container.streams.audio[0]
        to_mono = av.AudioResampler(format="fltp", layout="mono")
        for start_s in starts_s():
            container.seek(round(start_s * av.time_base))
            for frame in container.decode(stream):
                for part in to_mono.resample(frame):
                    part.to_ndarray()
                if frame.time is not None and frame.time > start_s + AUDIO.window_s:
                    break


def ours(data: bytes) -> None:
    extract_log_mel(data, AUDIO)


def milliseconds(do: Callable[[], None]) -> float:
    began = time.process_time()  # of all its threads, whatever else runs on the machine
    do()
    return (time.process_time() - began) * 1000


def ways(path: Path, data: bytes) -> dict[str, Callable[[], None]]:
    plain = MelSpectrogram(
        AUDIO.sample_rate, AUDIO.n_fft, hop_length=AUDIO.hop_length, n_mels=AUDIO.n_mels, f_min=AUDIO.f_min
    )
    known: dict[str, Callable[[], None]] = {
        "ours": partial(ours, data),
        "decoding alone": partial(by_decoding_alone, data),
        "PyAV alone": partial(by_pyav_alone, data),
        "plain loop": partial(with_a_plain_loop, plain, path),
    }
    if path.suffix != ".m4a":  # librosa reads by libsndfile, which does not know AAC
        known["librosa"] = partial(with_librosa, path)
        known["librosa, by offset"] = partial(with_librosa_by_offset, path)
    return known


def measured(path: Path, data: bytes, turns: int) -> dict[str, float]:
    """Milliseconds a song by each way that can read the format."""
    best: dict[str, float] = {}
    for _ in range(turns + 1):  # the first turn is for caches and compilers
        for name, do in ways(path, data).items():
            best[name] = min(milliseconds(do), best.get(name, np.inf))
    return best


def share_read(data: bytes) -> float:
    source = CountedSource(data)
    extract_log_mel(source, AUDIO)
    return source.bytes_read / source.size


# ---- the table ------------------------------------------------------------------------------------------------------


def row(name: str, figures: dict[str, float], share: str) -> str:
    ours_ms = figures["ours"]
    cells = [f"{ours_ms:.1f}", f"{1000 / ours_ms:.1f}", share]
    cells += [f"{figures[way]:.1f} ({ours_ms / figures[way]:.2f})" for way in ("decoding alone", "PyAV alone")]
    for way in ("librosa", "librosa, by offset", "plain loop"):
        cells.append(f"{figures[way]:,.0f} ({figures[way] / ours_ms:.1f})" if way in figures else "cannot")
    return f"| {' | '.join([name, *cells])} |"


def summed(figures: list[dict[str, float]]) -> dict[str, float]:
    """Of the ways that all have."""
    shared = [way for way in figures[0] if all(way in one for one in figures)]
    return {way: sum(one[way] for one in figures) / len(figures) for way in shared}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS, help="turns of each way; the best counts")
    parser.add_argument("--json", action="store_true", help="the figures as JSON on stdout")
    parser.add_argument("--write", type=Path, help="only write songs into this folder, to plan with")
    options = parser.parse_args()
    if options.write:
        write_songs(options.write)
        return
    torch.set_num_threads(1)
    made: dict[str, dict[str, float]] = {}
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for format, data in songs(SONG_S).items():
            path = Path(folder) / f"song.{format}"
            path.write_bytes(data)
            made[format], shares[format] = measured(path, data, options.turns), share_read(data)
    if options.json:
        Console().print_json(json.dumps({"milliseconds": made, "share of bytes read": shares}))
        return
    rows = [row(format, made[format], f"{shares[format]:.3f}") for format in made]
    rows.append(row("mean", summed(list(made.values())), ""))
    rows.append(row("mean but m4a", summed([figures for figures in made.values() if "librosa" in figures]), ""))
    RESULTS.write_text("\n".join([*heading(options.turns), *rows, ""]))
    Console().print(RESULTS.read_text(), markup=False, soft_wrap=True)


def heading(turns: int) -> list[str]:
    columns = ["format", "ours, ms", "songs/s", "share of bytes read", "decoding alone, ms (ours / it)"]
    columns += [
        "PyAV decoding alone, ms (ours / it)",
        "librosa, ms (/ ours)",
        "librosa by offset, ms (/ ours)",
        "plain loop, ms (/ ours)",
    ]
    return [
        f"`make bench-extraction`, {date.today().isoformat()}, {platform.machine()}, one thread, no GPU. CPU time, "
        f"the best of {turns} interleaved turns. Songs of {SONG_S} s, {AUDIO.windows} windows of {AUDIO.window_s:g} s.",
        "",
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
    ]


if __name__ == "__main__":
    main()
