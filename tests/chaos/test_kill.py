"""A run killed outright goes on from what it had, whichever stage it was in, and ends as if nothing had been."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.slow]

SMALL = (
    "synthesis.songs=64", "synthesis.artists=24", "synthesis.duration_s=3", "synthesis.cover_size=32",
    "audio.sample_rate=8000", "audio.f_max=4000", "audio.n_mels=32", "audio.window_s=1.28", "cover.size=16",
    "encoder.embed_dim=16", "encoder.width=16", "encoder.epochs=20", "encoder.batch_size=16",
    "generator.kind=transformer", "generator.size=16", "generator.transformer.patch_size=4",
    "generator.transformer.hidden=32", "generator.transformer.layers=1", "originality.max_likeness=1",
    "generator.transformer.heads=2", "generator.transformer.neighbours=2", "generator.transformer.steps=30",
    "generator.transformer.num_inference_steps=3",
    "evaluation.num_generated=8", "evaluation.contact_sheet_rows=2",
    "train.num_workers=1", "train.checkpoint_steps=5", "batch.rows_per_block=4",
)  # fmt: skip


def start(workspace: Path) -> "subprocess.Popen[str]":
    """The demo without its endpoint, in a process group of its own."""
    command = [sys.executable, "-m", "gatefold", "--workspace", str(workspace), "demo", "--no-serve"]
    command += [word for setting in SMALL for word in ("--set", setting)]
    environment = {**os.environ, "RAY_ADDRESS": "local"}
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment, text=True, start_new_session=True
    )


def kill_when(workspace: Path, reached: Callable[[], bool]) -> None:
    """Start, wait until `reached`, and SIGKILL the driver and all that Ray started for it."""
    process = start(workspace)
    deadline = time.monotonic() + 240
    try:
        while not reached():
            assert process.poll() is None, f"ended before it could be killed: {process.communicate()[1][-2000:]}"
            assert time.monotonic() < deadline, "the moment to kill at never came"
            time.sleep(0.02)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def last_step(workspace: Path, run: str) -> int:
    """Of the newest checkpoint of a training run; 0 before the first."""
    steps = [int(path.name.removeprefix("step-")) for path in workspace.glob(f"runs/{run}-*/step-*")]
    return max(steps, default=0)


def test_a_run_killed_in_every_kind_of_stage_goes_on_and_ends_whole(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    kill_when(workspace, lambda: len(list(workspace.glob("songs/audio/*"))) >= 8)
    kill_when(workspace, lambda: len(list(workspace.glob("spectrograms/*/*.parquet"))) >= 3)
    kill_when(workspace, lambda: last_step(workspace, "encoder") >= 10)
    kill_when(workspace, lambda: last_step(workspace, "generator") >= 10)
    before = last_step(workspace, "generator")
    process = start(workspace)
    _, said = process.communicate(timeout=400)
    assert process.returncode == 0, said[-3000:]
    first = re.search(r"train-generator: (\d+)/30", said)
    assert first is not None, said[-3000:]
    assert int(first.group(1)) > before, "the generator's training began anew"
    for verb in ("synthesize", "spectrograms", "covers", "train-encoder", "embed", "index"):
        assert re.search(rf"✓ {verb}\s+up to date", said), f"{verb} was done again:\n{said[-3000:]}"
    report = json.loads((workspace / "reports" / "spectrograms.json").read_text())
    assert (report["done"], report["skipped"], report["rejected"]) == (0, 64, 0)
    assert (workspace / "releases" / "current").exists()
