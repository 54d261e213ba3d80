"""What the extraction of spectrograms costs beyond the work itself: two workers against one, Ray Data against a plain
pool of processes with the same mapper and the same blocks, and the memory of a run over many songs against one over
few.

The songs are the real clips, joined to songs of 60 s in six formats and listed again and again, on a local disk. Each
run has processes of its own; the ways take turns. A rate is taken from when as many blocks are finished as there are
workers, so that neither starting nor what was done before is part of it. Writes results/scaling.md beside this file.
`make bench-scaling`.
"""

import argparse
import json
import multiprocessing
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from rich.console import Console

from benchmarks.extraction import songs
from gatefold.config import Settings, load
from gatefold.progress import NOTHING
from gatefold.storage import tables
from gatefold.storage.contents.catalogues import read_tracks
from gatefold.workspace import Workspace
from pipelines.catalogue.catalogue import build_catalogue
from pipelines.cluster import connect
from pipelines.extraction.blocks import BlockMapper, cut
from pipelines.extraction.extract_block import make_mapper
from pipelines.extraction.spectrograms import extract_spectrograms

RESULTS = Path(__file__).parent / "results" / "scaling.md"
SAMPLE_EVERY_S = 1.0  # to look takes a tenth of a core while it lasts, which one worker leaves free and two do not


class Rate:
    """Songs a second from when every worker has finished a block, to the last block."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._finished: list[tuple[float, int]] = []

    def __call__(self, done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        del total, facts
        if done:
            self._finished.append((time.monotonic(), done))

    def songs_per_s(self) -> float:
        if len(self._finished) <= self._workers:
            raise ValueError("too few blocks to measure a rate; measure more songs")
        (began, before), (ended, done) = self._finished[self._workers - 1], self._finished[-1]
        return (done - before) / (ended - began)


# ---- one run, in a process of its own -------------------------------------------------------------------------------


def settings_for(folder: Path) -> tuple[Settings, Workspace]:
    return load(), Workspace((folder / f"workspace-{time.monotonic_ns()}").as_uri())


def by_ray(folder: Path, manifest: Path, workers: int) -> dict[str, float]:
    import ray

    connect()  # for the environment that it gives to Ray
    ray.shutdown()
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    settings, workspace = settings_for(folder)
    build_catalogue(settings, str(manifest), workspace)
    rate = Rate(workers)
    with peak_memory() as peak_bytes:
        extract_spectrograms(settings, workspace, rate)
    return {"songs_per_s": rate.songs_per_s(), "peak_bytes": peak_bytes()}


_mapper: BlockMapper
_target: str


def _begin(settings: Settings, target: str) -> None:
    global _mapper, _target
    _mapper, _target = make_mapper(settings.audio, settings.batch), target


def _map_block(numbered: tuple[int, pa.Table]) -> int:
    number, tracks = numbered
    tables.write_part(_target, f"{number:08}", _mapper(tracks).rows)
    return int(tracks.num_rows)


def by_pool(folder: Path, manifest: Path, workers: int) -> dict[str, float]:
    settings, workspace = settings_for(folder)
    build_catalogue(settings, str(manifest), workspace)
    tracks = read_tracks(workspace, ["song_id", "audio_uri"])
    blocks = cut(tracks, workers, settings.batch.rows_per_block)
    rate, done = Rate(workers), 0
    context = multiprocessing.get_context("spawn")
    with peak_memory() as peak_bytes, context.Pool(workers, _begin, (settings, workspace.uri)) as pool:
        for count in pool.imap_unordered(_map_block, enumerate(blocks)):
            done += count
            rate(done, tracks.num_rows)
    return {"songs_per_s": rate.songs_per_s(), "peak_bytes": peak_bytes()}


@contextmanager
def peak_memory() -> Iterator[Callable[[], float]]:
    """The most bytes that this process and its descendants held together; pages they share are counted once."""
    peak, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], sum(map(_proportional_bytes, _family())))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: float(peak[0])
    finally:
        over.set()
        thread.join()


def _family() -> list[Path]:
    """/proc folders of this process, and of all that it started and those started."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[process.name] = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:  # gone meanwhile
            continue
    family = {str(Path("/proc/self").resolve().name)}
    while True:
        more = {child for child, parent in parents.items() if parent in family} - family
        if not more:
            return [Path("/proc") / process for process in family]
        family |= more


def _proportional_bytes(process: Path) -> int:
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


# ---- all runs -------------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, files: list[Path], count: int) -> Path:
    path = folder / f"{count}.csv"
    uris = [str(files[number % len(files)]) for number in range(count)]
    table = pa.table({"song_id": [f"{number:06}" for number in range(count)], "audio_uri": uris})
    pyarrow.csv.write_csv(table, path)
    return path


def run_apart(folder: Path, manifest: Path, way: str, workers: int) -> dict[str, float]:
    words = ["--folder", str(folder), "--manifest", str(manifest), "--way", way, "--workers", str(workers)]
    command = [sys.executable, "-m", "benchmarks.scaling", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def measure(count: int, turns: int) -> dict[str, dict[str, float]]:
    """Medians over the turns."""
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = []
        for format, data in songs(60).items():
            files.append(folder / f"song.{format}")
            files[-1].write_bytes(data)
        many, few = write_manifest(folder, files, count), write_manifest(folder, files, count // 10)
        ways = {
            "one worker": (many, "ray", 1),
            "two workers": (many, "ray", 2),
            "pool of two": (many, "pool", 2),
            "two workers, a tenth of the songs": (few, "ray", 2),
        }
        made: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(turns):
            for way, (manifest, kind, workers) in ways.items():
                with console.status(f"turn {turn + 1} of {turns}: {way}"):
                    made[way].append(run_apart(folder, manifest, kind, workers))
    return {
        way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in made.items()
    }


def table(made: dict[str, dict[str, float]], count: int, turns: int) -> str:
    one, two, pool, few = made.values()
    lines = [
        f"`make bench-scaling`, {date.today().isoformat()}, {platform.machine()}, 2 cores, no GPU; medians of {turns} "
        f"turns over {count:,} songs of 60 s, three windows of 5.12 s.",
        "",
        "| run | songs/s | peak memory, MB |",
        "|---|---:|---:|",
        *(f"| {way} | {run['songs_per_s']:.1f} | {run['peak_bytes'] / 1e6:,.0f} |" for way, run in made.items()),
        "",
        f"- Two workers do {two['songs_per_s'] / one['songs_per_s']:.2f} times what one does.",
        f"- In Ray Data a song takes {pool['songs_per_s'] / two['songs_per_s']:.2f} times what it takes in the pool.",
        f"- {count:,} songs take {two['peak_bytes'] / few['peak_bytes']:.2f} times the memory of {count // 10:,}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--songs", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--manifest", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--way", choices=("ray", "pool"), help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        run = by_ray if options.way == "ray" else by_pool
        sys.stdout.write(json.dumps(run(options.folder, options.manifest, options.workers)) + "\n")
        return
    RESULTS.write_text(table(measure(options.songs, options.turns), options.songs, options.turns))
    Console().print(RESULTS.read_text(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
