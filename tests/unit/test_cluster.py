"""The cluster that `cluster.yaml` describes is one that Ray's own launcher accepts, with room between its bounds."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

CLUSTER = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def cluster() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(CLUSTER.read_text())
    return config


def test_ray_accepts_the_cluster(cluster: dict[str, Any]) -> None:
    validate_config(prepare_config(cluster))


def test_no_node_type_wants_more_workers_than_it_may_have(cluster: dict[str, Any]) -> None:
    """Ray does not look."""
    kinds = dict(cluster["available_node_types"])
    del kinds[cluster["head_node_type"]]
    for name, kind in kinds.items():
        assert 0 <= kind["min_workers"] <= kind["max_workers"], name
    assert sum(kind["max_workers"] for kind in kinds.values()) == cluster["max_workers"]
