"""Which decoder is faster for which kind of file: soundfile (libsndfile) against PyAV (FFmpeg), on real clips.

Interleaved in one run, the best of several turns each; the ratio is what `gatefold.audio` chooses by. Writes
results/decoding.md beside this file. Run it with `make bench`, or `python -m benchmarks.decoding`.
"""

import io
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
from rich.console import Console

CLIPS = Path(__file__).parent.parent / "tests" / "data" / "music"
RESULTS = Path(__file__).parent / "results" / "decoding.md"
TURNS = 7


def with_soundfile(data: bytes) -> int:
    samples, _ = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    return len(_mono(samples))


def with_pyav(data: bytes) -> int:
    with av.open(io.BytesIO(data)) as container:
        to_float = av.AudioResampler(format="fltp")
        blocks = [part.to_ndarray() for frame in container.decode(audio=0) for part in to_float.resample(frame)]
    return len(_mono(np.concatenate(blocks, axis=1).T))


def _mono(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    mixed: npt.NDArray[np.float32] = samples @ np.full(samples.shape[1], 1 / samples.shape[1], np.float32)
    return mixed


def turn_ms(decode: Callable[[bytes], int], data: bytes) -> float | None:
    """One turn, in milliseconds; None where the decoder does not know the format."""
    began = time.perf_counter()
    try:
        decode(data)
    except (soundfile.SoundFileError, av.FFmpegError):
        return None
    return (time.perf_counter() - began) * 1000


def main() -> None:
    lines = ["| clip | soundfile, ms | PyAV, ms | PyAV / soundfile |", "|---|---:|---:|---:|"]
    for clip in sorted(path for path in CLIPS.iterdir() if path.suffix != ".csv"):
        data = clip.read_bytes()
        turns = [(turn_ms(with_soundfile, data), turn_ms(with_pyav, data)) for _ in range(TURNS)]
        by_pyav = min(ms for _, ms in turns if ms is not None)
        if any(ms is None for ms, _ in turns):
            lines.append(f"| {clip.name} | cannot | {by_pyav:.1f} | |")
            continue
        by_soundfile = min(ms for ms, _ in turns if ms is not None)
        lines.append(f"| {clip.name} | {by_soundfile:.1f} | {by_pyav:.1f} | {by_pyav / by_soundfile:.2f} |")
    heading = f"`python -m benchmarks.decoding`, {date.today().isoformat()}, {platform.machine()}, one core, no GPU"
    table = "\n".join([heading, "", *lines, ""])
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(table)
    Console().print(table, markup=False)


if __name__ == "__main__":
    main()
