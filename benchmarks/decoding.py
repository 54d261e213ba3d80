"""Which decoder reads windows out of which format: soundfile (libsndfile) against PyAV (FFmpeg), in time and bytes.

Three windows of 10 s out of songs of 200 s, each jumped to; interleaved in one run, the best of several turns each.
`gatefold.audio.decoding` chooses by it. Writes results/decoding.md beside this file. `make bench-decoding`.
"""

import argparse
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import av
import numpy as np
import soundfile
from rich.console import Console

from benchmarks.extraction import AUDIO, SONG_S, CountedSource, songs, starts_s
from gatefold.ranged import RangedFile

RESULTS = Path(__file__).parent / "results" / "decoding.md"
DEMUXERS = {"wav": "wav", "flac": "flac", "mp3": "mp3", "m4a": "mov", "ogg": "ogg", "opus": "ogg"}


def with_soundfile(file: RangedFile) -> None:
    with soundfile.SoundFile(file) as opened:
        for start_s in starts_s():
            opened.seek(round(start_s * opened.samplerate))
            opened.read(round(AUDIO.window_s * opened.samplerate), dtype="float32", always_2d=True)


def with_pyav(file: RangedFile, format: str) -> None:
    with av.open(file, format=DEMUXERS[format], options={"fflags": "fastseek"}) as container:
        stream = container.streams.audio[0]
        for start_s in starts_s():
            container.seek(round(start_s / stream.time_base), stream=stream)
            for frame in container.decode(stream):
                frame.to_ndarray().astype(np.float32)
                if frame.time is not None and frame.time >= start_s + AUDIO.window_s:
                    break


def turn(decode: Callable[[RangedFile], None], data: bytes) -> tuple[float, float] | None:
    """CPU milliseconds of one turn and the share of the bytes that it read; None where the format is not known."""
    source = CountedSource(data)
    began = time.process_time()
    try:
        decode(RangedFile(source, max_bytes=len(data) * 2))
    except soundfile.SoundFileError:
        return None
    return (time.process_time() - began) * 1000, source.bytes_read / source.size


def row(format: str, data: bytes, turns: int) -> str:
    made = [(turn(with_soundfile, data), turn(lambda file: with_pyav(file, format), data)) for _ in range(turns)]
    by_soundfile = min((one for one, _ in made if one), default=None)
    by_pyav = min(one for _, one in made if one)
    first = f"{by_soundfile[0]:.1f} | {by_soundfile[1]:.3f}" if by_soundfile else "cannot | "
    ratio = f"{by_pyav[0] / by_soundfile[0]:.2f}" if by_soundfile else ""
    return f"| {format} | {first} | {by_pyav[0]:.1f} | {by_pyav[1]:.3f} | {ratio} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7, help="turns of each decoder; the best counts")
    turns = parser.parse_args().turns
    lines = [
        f"`make bench-decoding`, {date.today().isoformat()}, {platform.machine()}, one thread, no GPU. CPU time, the "
        f"best of {turns} interleaved turns. Songs of {SONG_S} s, {AUDIO.windows} windows of {AUDIO.window_s:g} s.",
        "",
        "| format | soundfile, ms | share of bytes read | PyAV, ms | share of bytes read | PyAV / soundfile |",
        "|---|---:|---:|---:|---:|---:|",
        *(row(format, data, turns) for format, data in songs(SONG_S).items()),
    ]
    RESULTS.write_text("\n".join([*lines, ""]))
    Console().print(RESULTS.read_text(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
