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
    prepared = prepare_config(cluster)
    validate_config(prepared)
    kinds = prepared["available_node_types"]
    assert {kind["node_config"]["ImageId"] for kind in kinds.values()} == {
        kind["node_config"]["ImageId"] for kind in cluster["available_node_types"].values()
    }


@pytest.mark.parametrize("kind", ["head", "audio", "models"])
def test_every_node_type_has_an_image_a_role_and_a_disk_of_its_own(cluster: dict[str, Any], kind: str) -> None:
    """The launcher's own image is Ubuntu 18.04, whose Python and C library are too old; a worker without a role has
    no way to the bucket."""
    node = cluster["available_node_types"][kind]["node_config"]
    assert node["ImageId"].startswith("resolve:ssm:/aws/service/")
    assert "ubuntu" in node["ImageId"]
    assert "24.04" in node["ImageId"]
    assert node["IamInstanceProfile"] == {"Name": "gatefold-head" if kind == "head" else "gatefold-worker"}
    (disk,) = node["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/sda1"
    assert disk["Ebs"]["VolumeSize"] >= 100


def test_only_the_image_of_gpu_nodes_has_a_driver(cluster: dict[str, Any]) -> None:
    kinds = cluster["available_node_types"].values()
    assert all(("nvidia" in kind["node_config"]["ImageId"]) == ("GPU" in kind["resources"]) for kind in kinds)


def test_where_tokens_are_asked_for_every_node_has_one(cluster: dict[str, Any]) -> None:
    assert any("RAY_AUTH_MODE=token" in command for command in cluster["setup_commands"])
    home = f"/home/{cluster['auth']['ssh_user']}"
    assert cluster["file_mounts"][f"{home}/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in cluster["setup_commands"]


@pytest.mark.parametrize("commands", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_ray_starts_with_room_for_its_open_files(cluster: dict[str, Any], commands: str) -> None:
    (start,) = [command for command in cluster[commands] if "ray start" in command]
    assert start.startswith("ulimit -n 65536; ray start")


def test_no_node_type_wants_more_workers_than_it_may_have(cluster: dict[str, Any]) -> None:
    """Ray does not look."""
    kinds = dict(cluster["available_node_types"])
    del kinds[cluster["head_node_type"]]
    for name, kind in kinds.items():
        assert 0 <= kind["min_workers"] <= kind["max_workers"], name
    assert sum(kind["max_workers"] for kind in kinds.values()) == cluster["max_workers"]
