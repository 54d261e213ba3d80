"""The article's own generator, at 16 pixels and a few steps: it learns, adapts, and samples each cover by its seed."""

import io
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import sngan
from benchmarks.sngan import Pixels, Sngan, adapt, held_out, run, train
from benchmarks.sngan_networks import LATENT
from gatefold.errors import InputError
from gatefold.records import TRACKS
from gatefold.storage import objects
from gatefold.storage.contents import catalogues
from gatefold.storage.contents.catalogues import Catalogue
from gatefold.workspace import Workspace
from tests.factories import publish_small_release, write_pairs

SIZE = 16


def covers(count: int, seed: int = 0, brightest: int = 256) -> Pixels:
    """Plain colours with a little noise."""
    draw = np.random.default_rng(seed)
    colours = draw.integers(0, brightest, (count, 3, 1, 1))
    noise = draw.integers(-8, 9, (count, 3, SIZE, SIZE))
    return (colours + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def trained() -> Sngan:
    return train(covers(40), seconds=60, seed=0, steps=4)


def test_training_ends_when_its_time_is_over_or_its_steps_are_done(trained: Sngan) -> None:
    assert (trained.steps, trained.size) == (4, SIZE)
    assert train(covers(8), seconds=0.0, seed=0).steps == 0
    assert train(covers(40), seconds=0.5, seed=0).steps > 0


def test_the_same_steps_and_seed_give_the_same_generator(trained: Sngan) -> None:
    again, other = (train(covers(40), seconds=60, seed=seed, steps=4) for seed in (0, 1))
    of_trained, of_again, of_other = (list(one.generator.state_dict().values()) for one in (trained, again, other))
    assert all(torch.equal(a, b) for a, b in zip(of_trained, of_again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(of_trained, of_other, strict=True))


def test_the_discriminator_has_layers_of_spectral_norm_one(trained: Sngan) -> None:
    for module in trained.discriminator.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            assert float(torch.linalg.matrix_norm(module.weight.flatten(1), 2)) == pytest.approx(1, abs=0.35)


def test_adapting_changes_scales_and_shifts_alone_and_comes_nearer_to_the_covers(trained: Sngan) -> None:
    dark = covers(12, seed=1, brightest=40)
    before = {name: value.clone() for name, value in trained.generator.state_dict().items()}
    adapted = adapt(trained, dark, steps=40, seed=0)
    after = adapted.generator.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    norms = {name for name in before if "norms" in name or name.startswith("end.0")}
    assert changed
    assert changed <= {name for name in norms if name.endswith((".weight", ".bias"))}
    assert all(torch.equal(value, before[name]) for name, value in trained.generator.state_dict().items())
    assert adapted.losses[-1] < 0.8 * adapted.losses[0]
    assert adapted.latents.shape == (12, LATENT)
    unadapted = adapt(trained, dark, steps=0, seed=0)
    assert abs(adapted.sample(range(4)).mean() - dark.mean()) < abs(unadapted.sample(range(4)).mean() - dark.mean())


def test_a_sample_hangs_on_its_seed_alone(trained: Sngan) -> None:
    adapted = adapt(trained, covers(4), steps=1, seed=0)
    together = adapted.sample([3, 4, 3])
    assert (together.shape, together.dtype) == ((3, 3, SIZE, SIZE), np.dtype(np.uint8))
    assert np.array_equal(together[0], together[2])
    assert not np.array_equal(together[0], together[1])
    assert np.array_equal(together[1:2], adapted.sample([4]))


def test_other_features_may_say_what_should_be_alike(trained: Sngan) -> None:
    seen: list[tuple[int, ...]] = []

    def mean_colour(pictures: Tensor) -> list[Tensor]:
        seen.append(tuple(pictures.shape))
        return [pictures.mean(dim=(2, 3))]

    losses = adapt(trained, covers(4), steps=2, seed=0, features=mean_colour).losses
    assert seen == [(4, 3, SIZE, SIZE)] * 3
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((4, 3, SIZE, SIZE), np.float32),
        np.zeros((4, 3, SIZE, 2 * SIZE), np.uint8),
        np.zeros((4, 3, 24, 24), np.uint8),
        np.zeros((3, SIZE, SIZE), np.uint8),
        np.zeros((0, 3, SIZE, SIZE), np.uint8),
    ],
)
def test_covers_of_another_shape_are_refused(pixels: Pixels) -> None:
    with pytest.raises(InputError, match=r"^pixels (uint8|float32) \(.*expected uint8 \[covers, 3, S, S\]"):
        train(pixels, seconds=1, seed=0)


def test_adapting_without_an_end_or_to_another_size_is_refused(trained: Sngan) -> None:
    with pytest.raises(InputError, match="seconds and steps are both None"):
        adapt(trained, covers(4), seed=0)
    with pytest.raises(InputError, match="makes covers of 16 pixels a side"):
        adapt(trained, np.zeros((4, 3, 32, 32), np.uint8), steps=1, seed=0)


def test_it_trains_on_training_covers_and_draws_a_row_for_each_held_out_song(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sngan, "NEAREST", 4)
    monkeypatch.setattr(sngan, "SHOWN", 3)
    workspace = Workspace(objects.resolve(str(tmp_path)))
    publish_small_release(workspace)
    ids = [f"s{row}" for row in range(12)]
    write_pairs(workspace, dict.fromkeys(ids, 1))
    rows = [
        {"song_id": song_id, "audio_uri": "file:///a.wav", "split": "test" if number % 3 == 0 else "train"}
        for number, song_id in enumerate(ids)
    ]
    catalogue = Catalogue("c1", len(rows), "file:///m.csv")
    catalogues.replace(workspace, catalogue, pa.Table.from_pylist(rows, schema=TRACKS), 100_000)
    training, nearest = held_out(workspace, songs=2)
    assert training.shape == (8, 3, SIZE, SIZE)
    assert {song_id: covers.shape for song_id, covers in nearest.items()} == {
        "s0": (4, 3, SIZE, SIZE),
        "s6": (4, 3, SIZE, SIZE),
    }
    lines: list[str] = []
    uri = run(workspace, songs=2, seconds=0.1, adapt_seconds=0.1, say=lines.append)
    assert re.match(r"trained on 8 covers: \d+ steps in \d+\.\d s", lines[0])
    assert [re.match(r"'(s\d)': \d+ steps in \d", line)[1] for line in lines[1:]] == ["s0", "s6"]  # type: ignore[index]
    assert Image.open(io.BytesIO(objects.read(uri))).size == (2 * 3 * SIZE, 2 * SIZE)
