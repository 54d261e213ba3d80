"""The GPU benchmark, checked without one: its measures run on the CPU and mean what they say."""

import os
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import gpu, searching
from gatefold.config import AudioSettings, CoverSettings, EncoderSettings, PretrainedSettings, Settings
from tests.pretrained import SIZE, write_pretrained

CPU = torch.device("cpu")
SMALL = Settings(
    audio=AudioSettings(n_mels=16, f_max=4_000, window_s=0.64, windows=2),
    cover=CoverSettings(size=16),
    encoder=EncoderSettings(width=16, embed_dim=8),
)


def test_without_a_gpu_it_says_so_and_measures_nothing() -> None:
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no GPU")


def test_a_search_is_measured_where_faiss_searches_on_the_device_alone() -> None:
    assert gpu.searching(200, 8, "cpu") is None


def test_training_and_embedding_are_measured_on_whatever_device_there_is() -> None:
    pairs_per_s, flops_per_s = gpu.training(SMALL, 4, CPU, turns=1)
    assert pairs_per_s > 0
    assert flops_per_s / pairs_per_s > 100_000  # operations a pair: convolutions were counted, back as well as forth
    assert gpu.transformer_training(SMALL, 4, CPU, turns=1) > 0
    assert gpu.embedding(SMALL, 4, CPU, turns=1) > 0
    assert gpu.analytic(64, CPU, turns=1) > 0
    assert gpu.peak_flops(CPU, side=64) > 0


def test_a_pretrained_model_is_measured_where_its_checkpoint_is_named(tmp_path: Path) -> None:
    model = write_pretrained(tmp_path / "model", "StableDiffusionPipeline")
    lines = gpu.pretrained(PretrainedSettings(model=str(model), size=SIZE, num_inference_steps=2), CPU, turns=1)
    assert [line.split("|")[1].strip() for line in lines] == [
        f"pre-trained model, {count} at once, {SIZE} px, 2 steps at strength 0.5" for count in (1, 4)
    ]
    assert all(line.endswith(" s a picture | |") for line in lines)
    assert "no checkpoint was named" in gpu.pretrained(PretrainedSettings(), CPU)[0]


def test_the_endpoint_is_measured_with_the_files_that_are_there() -> None:
    assert "RAY_SERVE_ENABLE_HA_PROXY" in " ".join(searching.throughput())
    assert searching.CONFIG.is_file()
