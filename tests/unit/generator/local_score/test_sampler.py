import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from gatefold.errors import Overloaded
from gatefold.generator.local_score import sampler
from gatefold.generator.local_score.denoiser import Parameters, Window, levels, posterior, steps
from gatefold.generator.local_score.sampler import Sampled, Sampler
from gatefold.images.pixels import resized, to_pixels
from tests import plain_sampler
from tests.drawn import drawn_covers

PARAMETERS = Parameters(widest=0.6, narrowest=9, temperature=0.05, capacity=0.2)
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[4]
COUNT = 12
PYRAMID = {size: torch.from_numpy(resized(drawn_covers(COUNT, 256), size)) for size in (64, 128, 256)}
COSINES = torch.linspace(0.7, 0.5, COUNT)


def read(size: int, numbers: Sequence[int]) -> Tensor:
    return PYRAMID[size][list(numbers)]


def sampled(seeds: Sequence[int], size: int = 128, **options: Any) -> list[Sampled]:
    return Sampler(read, COSINES, PARAMETERS, device=CPU, **options).sample(seeds, size)


def as_bytes(one: Sampled) -> np.ndarray[Any, Any]:
    return to_pixels(one.picture).numpy()


def test_levels_double_up_to_the_size_that_is_asked_for() -> None:
    assert [levels(size) for size in (16, 64, 256, 300, 1024)] == [
        [16], [64], [64, 128, 256], [64, 128, 300], [64, 128, 256, 512, 1024]
    ]  # fmt: skip
    assert levels(3000) == [64, 128, 256, 512, 1024, 2048, 3000]


@pytest.mark.parametrize("size", [16, 64, 128, 256, 512, 3000])
def test_every_level_has_a_step_and_noise_falls_to_nothing(size: int) -> None:
    plan = steps(size)
    assert sorted({step.size for step in plan}) == levels(size)
    assert [step.t_next for step in plan[:-1]] == [step.t for step in plan[1:]]
    assert (plan[0].t, plan[-1].t_next) == (1.0, 0.0)
    assert all(step.t > step.t_next for step in plan)


def test_pictures_equal_the_plain_reference_where_no_source_is_dropped() -> None:
    for seed in (1, 2, 3):
        plain = plain_sampler.sample(PYRAMID, COSINES, PARAMETERS, seed=seed, size=256)
        ours = sampled([seed], 256, dropping=False)[0]
        assert np.array_equal(as_bytes(ours), to_pixels(plain).numpy())


def test_dropping_sources_changes_a_picture_by_less_than_one_level_on_average() -> None:
    whole, dropped = (sampled([1, 2, 3, 4], 256, dropping=dropping) for dropping in (False, True))
    apart = [np.abs(as_bytes(a).astype(int) - as_bytes(b)).mean() for a, b in zip(whole, dropped, strict=True)]
    assert max(apart) < 1


def test_a_picture_has_the_same_bytes_alone_in_a_job_and_on_any_number_of_threads() -> None:
    alone = sampled([7], 256)[0]
    together = sampled(range(1, 9), 256, threads=3)[6]
    assert np.array_equal(as_bytes(alone), as_bytes(together))
    assert torch.equal(alone.share, together.share)
    assert torch.equal(alone.holder, together.holder)
    assert alone.lead == together.lead


@pytest.mark.parametrize("tile", [32, 64, 128, 256])
def test_no_picture_depends_on_how_it_is_cut_into_tiles(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    whole = sampled([3], 256, dropping=False)[0]
    monkeypatch.setattr(sampler, "_TILE", tile)
    assert np.array_equal(as_bytes(sampled([3], 256, dropping=False)[0]), as_bytes(whole))


def test_borders_of_tiles_are_no_seams_where_sources_are_dropped() -> None:
    pictures = np.stack([as_bytes(one) for one in sampled(range(6), 256, threads=2)]).astype(float)
    borders = np.arange(sampler._TILE, 256, sampler._TILE) - 1
    for axis in (2, 3):
        steps_between = np.abs(np.diff(pictures, axis=axis)).mean(axis=tuple({0, 1, 2, 3} - {axis}))
        within = np.delete(steps_between, borders)
        assert steps_between[borders].mean() < within.mean() + within.std()


def test_a_picture_has_the_same_bytes_with_the_instructions_of_an_older_processor() -> None:
    command = [sys.executable, "-m", "benchmarks.generation", "--digest"]
    older = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    here, there = (
        subprocess.run(command, cwd=ROOT, env=os.environ | extra, check=True, capture_output=True, text=True).stdout
        for extra in ({}, older)
    )
    assert len(here.strip()) == 64
    assert here == there


@pytest.mark.slow
def test_a_large_picture_of_many_sources_takes_less_than_two_gib() -> None:
    command = [sys.executable, "-m", "benchmarks.generation", "--memory", "1024", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert float(done.stdout.split()[1]) < 2.0


def test_another_seed_gives_another_picture() -> None:
    one, other = sampled([1, 2])
    assert np.abs(as_bytes(one).astype(int) - as_bytes(other)).mean() > 5


def test_shares_sum_to_one_and_agree_with_the_map() -> None:
    for one in sampled([1, 2, 3]):
        assert float(one.share.sum()) == pytest.approx(1, abs=1e-9)
        held = torch.bincount(one.holder.flatten().long(), minlength=COUNT).double() / one.holder.numel()
        assert float((held - one.share).abs().max()) < 0.05


def test_a_picture_composed_of_two_halves_is_attributed_to_both() -> None:
    data = PYRAMID[64][[0, 1]].float() / 127.5 - 1
    noisy = torch.cat([data[0, :, :, :32], data[1, :, :, 32:]], dim=2) * 0.9
    noisy += 0.1 * torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))
    half = 4
    weights = posterior(noisy, Window.of(data), torch.zeros(2), t=0.1, half=half, cut=(half,) * 4)
    assert float((weights.sum(0) - 1).abs().max()) < 1e-5
    assert weights[0].mean() == pytest.approx(0.5, abs=0.03)
    assert float(weights[0, :, : 32 - half].min()) > 0.99
    assert float(weights[1, :, 32 + half :].min()) > 0.99


def test_of_two_equal_sources_the_nearer_one_has_the_larger_share() -> None:
    one = PYRAMID[64][:1].expand(2, -1, -1, -1)

    def same(_: int, numbers: Sequence[int]) -> Tensor:
        return one[list(numbers)]

    parameters = Parameters(0.6, 9, 0.1, capacity=1.0)
    (made,) = Sampler(same, torch.tensor([0.5, 0.6]), parameters, device=CPU).sample([1], 64)
    assert float(made.share[1] / made.share[0]) == pytest.approx(np.exp(0.1 / 0.1), rel=1e-3)


def test_a_single_source_comes_back_as_it_is() -> None:
    def single(size: int, _: Sequence[int]) -> Tensor:
        return PYRAMID[size][:1]

    (made,) = Sampler(single, torch.tensor([0.5]), PARAMETERS, mirrored=False, device=CPU).sample([1], 128)
    assert np.array_equal(as_bytes(made), PYRAMID[128][0].numpy())
    assert made.share.tolist() == [1.0]


def test_capacity_bounds_the_largest_share() -> None:
    def largest(capacity: float) -> float:
        parameters = Parameters(0.6, 9, 0.02, capacity)
        made = Sampler(read, COSINES, parameters, device=CPU, threads=2).sample(range(8), 64)
        return float(np.median([float(one.share.max()) for one in made]))

    assert largest(0.15) < 0.75 * largest(1.0)


def test_the_lead_lends_its_colours() -> None:
    options: dict[str, Any] = {"device": CPU, "threads": 2}
    made = Sampler(read, COSINES, PARAMETERS, **options).sample([1, 2, 3], 64, lead=4)
    assert [one.lead for one in made] == [4, 4, 4]
    wanted = PYRAMID[64][4].float().mean((1, 2)) / 127.5 - 1
    for one in made:
        assert float((one.picture.mean((1, 2)) - wanted).abs().max()) < 0.2


def test_half_precision_stays_near_full_precision() -> None:
    full, half = sampled([1, 2]), sampled([1, 2], half_precision=True)
    apart = [np.abs(as_bytes(a).astype(int) - as_bytes(b)).mean() for a, b in zip(full, half, strict=True)]
    assert max(apart) < 2


def test_raising_in_on_step_stops_within_a_step_and_leaves_no_thread() -> None:
    calls: list[int] = []
    before = threading.active_count()

    def on_step(done: int, _: int) -> None:
        calls.append(done)
        if done == 3:
            raise Overloaded("stop", 1)

    with pytest.raises(Overloaded):
        Sampler(read, COSINES, PARAMETERS, device=CPU, threads=2).sample([1], 256, on_step=on_step)
    assert calls == [0, 1, 2, 3]
    assert threading.active_count() == before


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_pictures_of_a_cpu_but_for_rounding() -> None:
    def read_on_gpu(size: int, numbers: Sequence[int]) -> Tensor:
        return read(size, numbers).cuda()

    on_gpu = Sampler(read_on_gpu, COSINES, PARAMETERS, device=torch.device("cuda")).sample([1, 2], 256)
    on_cpu = sampled([1, 2], 256)
    apart = [np.abs(as_bytes(a).astype(int) - to_pixels(b.picture).cpu().numpy()).mean()
             for a, b in zip(on_cpu, on_gpu, strict=True)]  # fmt: skip
    assert max(apart) < 2
