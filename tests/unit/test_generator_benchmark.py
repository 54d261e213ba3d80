"""The benchmark of generators: the baseline adapts to each song once, and its covers come in the order asked for."""

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from benchmarks import generators, sngan
from gatefold.config import Settings
from gatefold.progress import silent
from gatefold.workspace import Workspace
from pipelines.evaluation.generator_candidates import Nearest

Pixels = npt.NDArray[np.uint8]


class Adapted:
    """Covers of one grey each: the number of the song plus the seed."""

    def __init__(self, song: int) -> None:
        self.song = song

    def sample(self, seeds: Sequence[int]) -> Pixels:
        return np.stack([np.full((3, generators.SIZE, generators.SIZE), self.song + seed, np.uint8) for seed in seeds])


class Trained:
    steps = 7


def test_each_song_is_adapted_to_once_and_its_covers_come_in_the_order_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained_on: list[tuple[int, ...]] = []
    adapted_to: list[int] = []
    said: list[str] = []

    def train(pixels: Pixels, *, seconds: float, seed: int) -> Trained:
        assert (seconds, seed) == (3.0, 0)
        trained_on.append(pixels.shape)
        return Trained()

    def adapt(_: Trained, pixels: Pixels, *, seconds: float, seed: int) -> Adapted:
        assert (seconds, seed) == (0.5, 0)
        adapted_to.append(int(pixels[0, 0, 0, 0]))
        return Adapted(adapted_to[-1])

    def read(_: Settings, __: Workspace, song_ids: Sequence[str]) -> Pixels:
        return np.stack([np.full((3, 128, 128), int(song_id), np.uint8) for song_id in song_ids])

    monkeypatch.setattr(sngan, "train", train)
    monkeypatch.setattr(sngan, "adapt", adapt)
    monkeypatch.setattr(generators, "read_covers", read)
    monkeypatch.setattr(generators, "paired_ids", lambda *_: pa.array(["1", "2", "3"]))

    def nearest(_: object, song_id: str, *__: object) -> Nearest:
        return Nearest((song_id,), np.ones(1, np.float32))

    monkeypatch.setattr(generators, "nearest_of", nearest)
    monkeypatch.setattr(generators, "rule_of", lambda *_: None)
    monkeypatch.setattr(generators, "index_of", lambda *_: None)
    candidate = generators.baseline(Settings(), Workspace("file:///w"), seconds=3.0, adapt_seconds=0.5, say=said.append)
    made = candidate.generate(["10", "20", "10"], [1, 2, 3], silent)
    assert trained_on == [(3, 3, generators.SIZE, generators.SIZE)]
    assert adapted_to == [10, 20]
    assert made.pixels[:, 0, 0, 0].tolist() == [11, 22, 13]
    assert made.seconds is not None
    assert said[0].startswith("SNGAN: 7 steps on 3 covers")


def test_the_header_names_the_command_and_how_the_baseline_was_trained() -> None:
    options = Namespace(
        workspace="w", set=["a=1"], only=[], seconds=180.0, adapt_seconds=4.0, results=generators.RESULTS
    )
    text = generators.header(options, 120.0)
    assert text.startswith("`python -m benchmarks.generators w --set a=1`")
    assert "trained for 180 s" in text
    assert "2 minutes" in text


def test_the_header_says_nothing_of_a_baseline_that_is_no_row() -> None:
    results = Path("folder/other.md")
    options = Namespace(
        workspace="w", set=[], only=["real covers"], seconds=180.0, adapt_seconds=4.0, results=results
    )
    text = generators.header(options, 120.0)
    assert text.startswith("`python -m benchmarks.generators w --only 'real covers' --results other.md`")
    assert text.endswith("2 minutes.\n\n")
