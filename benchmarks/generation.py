"""How long the analytic generator takes for a cover, and how much memory, by size and number of sources.

Beside the plain reference of the tests, which computes whole pictures of all sources in every step. Sources are drawn
covers of synthetic tracks; times are medians of interleaved turns. The digest of the pictures shows whether two
machines make the same. Writes results/generation.md beside this file. `make bench-generation`.
"""

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gatefold.generator.local_score.denoiser import Parameters, levels
from gatefold.generator.local_score.sampler import Sampler
from gatefold.images.pixels import resized, to_pixels
from tests import plain_sampler
from tests.drawn import drawn_covers

RESULTS = Path(__file__).parent / "results" / "generation.md"
PARAMETERS = Parameters(widest=0.6, narrowest=13, temperature=0.03, capacity=0.13)
COVERS = 4
MEMORY = ((256, 100), (512, 100), (1024, 100), (1024, 200))
"""pixels a side and sources whose memory is measured, each in a process of its own"""


def sources(count: int, size: int) -> tuple[Callable[[int, Sequence[int]], Tensor], Tensor]:
    """What a sampler reads, and cosines [count]; covers are drawn at 256 pixels and enlarged for larger levels."""
    drawn = drawn_covers(count, 256)
    pyramid = {level: torch.from_numpy(resized(drawn, level)) for level in levels(size) if level <= 256}

    def read(level: int, numbers: Sequence[int]) -> Tensor:
        if level in pyramid:
            return pyramid[level][list(numbers)]
        return torch.from_numpy(np.stack([resized(drawn[number], level) for number in numbers]))

    return read, torch.linspace(0.78, 0.4, count)


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def times(turns: int) -> dict[str, float]:
    """Median seconds of four covers at 256 pixels from 100 sources, ours and the plain reference's."""
    read, cosines = sources(100, 256)
    pyramid = {level: read(level, range(100)) for level in levels(256)}
    sampler = Sampler(read, cosines, PARAMETERS, device=torch.device("cpu"), threads=torch.get_num_threads())
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(turns):
        seconds["ours"].append(timed(lambda: sampler.sample(range(COVERS), 256)))
        plain = lambda: [  # noqa: E731
            plain_sampler.sample(pyramid, cosines, PARAMETERS, seed=seed, size=256) for seed in range(COVERS)
        ]
        seconds["plain"].append(timed(plain))
    return {name: float(np.median(values)) for name, values in seconds.items()}


def digest() -> str:
    """SHA-256 of the bytes of those four covers, uint8 [3, 256, 256] each, as they are handed out."""
    read, cosines = sources(100, 256)
    sampler = Sampler(read, cosines, PARAMETERS, device=torch.device("cpu"), threads=torch.get_num_threads())
    pictures = torch.stack([to_pixels(one.picture) for one in sampler.sample(range(COVERS), 256)])
    return hashlib.sha256(pictures.numpy().tobytes()).hexdigest()


def measure_memory(size: int, count: int) -> tuple[float, float]:
    """Seconds of one cover, and how much the process's peak memory in GiB rises over what it had before."""
    read, cosines = sources(count, size)
    sampler = Sampler(read, cosines, PARAMETERS, device=torch.device("cpu"), threads=torch.get_num_threads())
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far; what is inherited counts in rusage
    before = _peak_kib()
    seconds = timed(lambda: sampler.sample([1], size))
    return seconds, (_peak_kib() - before) / 2**20


def _peak_kib() -> int:
    """Largest resident memory of this process since the peak was last forgotten (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def main() -> None:
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--memory", nargs=2, type=int, metavar=("SIZE", "SOURCES"), help="measure this alone")
    parser.add_argument("--digest", action="store_true", help="the digest of the pictures alone")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    if options.memory:
        sys.stdout.write("{:.2f} {:.3f}\n".format(*measure_memory(*options.memory)))
        return
    if options.digest:
        sys.stdout.write(f"{digest()}\n")
        return
    found = times(options.turns)
    lines = [
        "# The analytic generator",
        "",
        f"Command: `make bench-generation`. {platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
        f"no GPU, {date.today().isoformat()}. Sources are synthetic covers.",
        "",
        f"{COVERS} covers of 256 pixels from 100 sources and their mirror images: {found['ours']:.2f} s; the plain "
        f"reference, which computes all sources at every pixel in every step, {found['plain']:.2f} s "
        f"({found['plain'] / found['ours']:.1f} times as long). Medians of {options.turns} interleaved turns.",
        "",
        f"SHA-256 of these pictures: `{digest()}` ({torch.backends.cpu.get_cpu_capability()}).",
        "",
        "| pixels a side | sources | seconds a cover | peak memory beside the originals, GiB |",
        "|---:|---:|---:|---:|",
    ]
    for size, count in MEMORY:
        command = [sys.executable, "-m", "benchmarks.generation", "--memory", str(size), str(count)]
        seconds, gib = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
        lines.append(f"| {size:,} | {count} | {seconds} | {gib} |")
    text = "\n".join(lines) + "\n"
    RESULTS.write_text(text)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
