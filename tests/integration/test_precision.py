"""What trainings compute in, on a processor without bfloat16 and on unlike machines: in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_BFLOAT16 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
"""A processor with instructions for bfloat16 computes as one without."""
STEPS = """
import sys, time
import torch
from gatefold.config import CoverSettings, EncoderSettings, GeneratorSettings, Settings, TransformerSettings
from pipelines.training import transformer_trainer
torch.set_num_threads(1)
settings = Settings(
    cover=CoverSettings(size=32),
    encoder=EncoderSettings(embed_dim=16),
    generator=GeneratorSettings(transformer=TransformerSettings(layers=1, steps=10)),
)
draw = torch.Generator().manual_seed(0)
batch = {
    "pixels": torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=draw),
    "song_embedding": torch.randn(8, 16, generator=draw),
    "neighbours": torch.randn(8, 8, 16, generator=draw),
}
def seconds():
    trainer, took = transformer_trainer.TransformerTrainer(settings), []
    for step in range(4):
        began = time.perf_counter()
        trainer.step(step, batch)
        took.append(time.perf_counter() - began)
    return min(took)
chosen = seconds()
transformer_trainer.agreed_dtype = lambda device: None
print(chosen / seconds())
"""
WORKER = """
import sys
import torch, torch.distributed as dist
from pipelines.training import precision
rank, store, *faster = sys.argv[1:]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=int(rank), world_size=2)
for both in faster:
    precision._bfloat16_is_faster = lambda: both[int(rank)] == "y"
    print(precision.agreed_dtype(torch.device("cpu")))
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_workers_on_unlike_machines_agree(tmp_path: Path) -> None:
    commands = [
        [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store"), "yy", "yn", "ny", "nn"] for rank in (0, 1)
    ]
    workers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for command in commands]
    agreed = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert agreed == [["torch.bfloat16", "None", "None", "None"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({}, id="as it is", marks=pytest.mark.chaos),
        pytest.param(WITHOUT_BFLOAT16, id="without bfloat16"),
    ],
)
def test_a_training_step_is_about_as_fast_as_in_float32_on_any_processor(environment: dict[str, str]) -> None:
    """In bfloat16 unmeasured, it took eighteen times as long on a processor that emulates it."""
    done = subprocess.run(
        [sys.executable, "-c", STEPS],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 3
