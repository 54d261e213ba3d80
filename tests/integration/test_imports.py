"""What the processes of a cluster load before they work: it costs seconds at each start, and memory for good."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("modules", "not_needed"),
    [
        ("pipelines.extraction.spectrograms, pipelines.extraction.covers, pipelines.index", {"torch"}),
        ("serve.api.application, serve.deployments.retriever", {"torch"}),
        ("pipelines.training.train_encoder, pipelines.extraction.embeddings", {"diffusers", "transformers"}),
        ("serve.deployments.encoder, gatefold.storage.models.encoders", {"diffusers", "transformers"}),
        ("serve.deploy", {"torch"}),
    ],
)
def test_workers_load_what_they_compute_with(modules: str, not_needed: set[str]) -> None:
    program = f"import sys; import {modules}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not_needed & set(loaded.stdout.split()) == set()
