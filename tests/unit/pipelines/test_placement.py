"""Where stages compute: on GPUs where the cluster has any, one for each worker."""

from types import SimpleNamespace
from typing import Any

import pytest
import ray

from gatefold.config import Settings
from gatefold.workspace import Workspace
from pipelines import devices
from pipelines.evaluation import held_out, independent_features
from pipelines.extraction import blocks, embeddings


def cluster(monkeypatch: pytest.MonkeyPatch, **resources: float) -> None:
    """Of these resources, connected."""
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: resources)


@pytest.mark.parametrize(("resources", "asked"), [({"CPU": 8.0}, 0), ({"CPU": 8.0, "GPU": 3.0}, 1)])
def test_what_embeds_asks_for_a_gpu_where_the_cluster_has_one(
    resources: dict[str, float], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        """Ends a call where it hands its work to Ray."""

    def hand_over(*_: Any, num_gpus: float, **__: Any) -> None:
        assert num_gpus == asked
        raise Asked

    cluster(monkeypatch, **resources)
    settings, workspace = Settings(), Workspace("file:///none")
    monkeypatch.setattr(embeddings, "map_tracks", hand_over)
    monkeypatch.setattr(embeddings, "versions_of", lambda *_: SimpleNamespace(encoder="e1"))
    monkeypatch.setattr(embeddings, "embedding_stage", lambda *_: None)
    monkeypatch.setattr(held_out, "map_rows", hand_over)
    monkeypatch.setattr(independent_features, "map_rows", hand_over)
    for call in (
        lambda: embeddings.embed_catalogue(settings, workspace),
        lambda: held_out.embed_pairs(settings, workspace, "file:///e1", ["a"]),
        lambda: independent_features.features_of(settings, workspace, ["a"]),
    ):
        with pytest.raises(Asked):
            call()


def test_a_stage_has_as_many_workers_as_the_cluster_has_gpus_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster(monkeypatch, CPU=8.0, GPU=3.0)
    assert (blocks._workers(0), blocks._workers(1)) == (8, 3)
    cluster(monkeypatch, CPU=8.0)
    assert blocks._workers(0) == 8


@pytest.mark.parametrize(("granted", "device"), [({}, "cpu"), ({"GPU": []}, "cpu"), ({"GPU": ["2"]}, "cuda")])
def test_the_device_is_what_ray_granted(
    granted: dict[str, list[str]], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert devices.granted_device() == "cpu", "outside of Ray"
    cluster(monkeypatch)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    context = SimpleNamespace(get_accelerator_ids=lambda: granted)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    assert devices.granted_device() == device
