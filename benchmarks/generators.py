"""Every generator of a workspace and the article's own on the same held-out songs: `gatefold evaluate --generators`,
with the baseline beside.

The baseline is trained here on the covers of the training songs and adapted to the covers nearest to each song; what it
takes of a cover's seconds is that adaptation, shared out over the covers of the song, on all cores. Writes
results/generators.md beside this file. `make bench-generators BENCH_ARGS=workspace`, after a run with that
workspace; --set gives the settings of that run where they differ from the defaults.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from benchmarks import sngan
from gatefold.config import Settings, load
from gatefold.images.pixels import resized
from gatefold.index.retrieval import CoverIndex
from gatefold.progress import NOTHING, OnProgress
from gatefold.storage import objects
from gatefold.storage.contents.cover_pixels import read_covers
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from pipelines.cluster import connect
from pipelines.evaluation.generator_candidates import NEAREST, Candidate, Pictures, nearest_of, rule_of
from pipelines.evaluation.generator_comparison import compare_generators
from pipelines.evaluation.generator_tables import as_markdown
from pipelines.training.training_data import paired_ids
from pipelines.versions import versions_of

RESULTS = Path(__file__).parent / "results" / "generators.md"
BASELINE = "the article's"
SIZE = 64
"""pixels a side of the baseline's covers"""


def index_of(settings: Settings, workspace: Workspace) -> CoverIndex:
    """The index that these settings make of the workspace's catalogue."""
    return load_index(objects.join(workspace.indexes, versions_of(settings, workspace).index))


def baseline(
    settings: Settings, workspace: Workspace, *, seconds: float, adapt_seconds: float, say: Callable[[str], None]
) -> Candidate:
    """SNGAN, trained when it is first asked for a cover, adapted to each song anew.

    Args:
        seconds: of training.
        adapt_seconds: of adapting to each song.
    """
    index = index_of(settings, workspace)

    def generate(song_ids: Sequence[str], seeds: Sequence[int], on_progress: OnProgress) -> Pictures:
        began = time.monotonic()
        training = resized(read_covers(settings, workspace, paired_ids(settings, workspace, "train").to_pylist()), SIZE)
        trained = sngan.train(training, seconds=seconds, seed=settings.evaluation.seed)
        say(f"SNGAN: {trained.steps:,} steps on {len(training):,} covers in {time.monotonic() - began:.0f} s")
        places: dict[str, list[int]] = {}
        for place, song_id in enumerate(song_ids):
            places.setdefault(song_id, []).append(place)
        pixels = np.zeros((len(song_ids), 3, SIZE, SIZE), np.uint8)
        rule = rule_of(settings, workspace)
        began = time.monotonic()
        for number, (song_id, of_song) in enumerate(places.items(), start=1):
            sources = nearest_of(index, song_id, NEAREST, rule).song_ids
            covers = resized(read_covers(settings, workspace, sources), SIZE)
            adapted = sngan.adapt(trained, covers, seconds=adapt_seconds, seed=settings.evaluation.seed)
            pixels[of_song] = adapted.sample([seeds[place] for place in of_song])
            on_progress(number * len(song_ids) // len(places), len(song_ids))
        taken = (time.monotonic() - began) / len(song_ids)
        return Pictures(pixels, [None] * len(song_ids), taken)

    return Candidate(BASELINE, generate)


def header(options: argparse.Namespace, took: float) -> str:
    """What was run, when and on what; how the baseline was trained, where it is one of the rows."""
    words = [options.workspace, *(f"--set {one}" for one in options.set), *(f"--only {one!r}" for one in options.only)]
    if options.results != RESULTS:
        words.append(f"--results {options.results.name}")
    cores = len(os.sched_getaffinity(0))
    text = (
        f"`python -m benchmarks.generators {' '.join(words)}`, {date.today().isoformat()}, {platform.machine()}, "
        f"{cores} cores; {took / 60:.0f} minutes."
    )
    if not options.only or BASELINE in options.only:
        text += (
            f" {BASELINE.capitalize()} generator: SNGAN at {SIZE} px, trained for {options.seconds:.0f} s, adapted to "
            f"the {NEAREST} nearest covers of each song for {options.adapt_seconds:.0f} s."
        )
    return f"{text}\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workspace", help="folder or URI of a workspace with a catalogue, an index and generators")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as gatefold takes it")
    parser.add_argument("--seconds", type=float, default=180.0, help="of training the baseline")
    parser.add_argument("--adapt-seconds", type=float, default=4.0, help="of adapting the baseline to each song")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a candidate; all without this")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the tables go")
    options = parser.parse_args()
    settings, workspace = load(None, options.set), Workspace(objects.resolve(options.workspace))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    connect(settings.endpoint_url)
    console, began = Console(stderr=True), time.monotonic()
    others = [
        baseline(settings, workspace, seconds=options.seconds, adapt_seconds=options.adapt_seconds, say=console.print)
    ]
    with console.status("") as status:

        def show(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
            status.update(f"{done:,} of {total:,} covers, {facts.get('candidate', '')}")

        report = compare_generators(settings, workspace, show, others=others, only=options.only)
    options.results.write_text(header(options, time.monotonic() - began) + as_markdown(report.details))
    Console().print(options.results.read_text(), markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
