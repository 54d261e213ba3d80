"""What the blocks of a stage counted reaches Prometheus by way of Ray, from a Ray that was started here."""

import re
import time
from urllib.request import urlopen

import pytest
import ray

from pipelines.extraction.telemetry import block_done


def work() -> None:
    block_done("a stage of the test", 20, {"empty_file": 3, "silent_audio": 1}, 2_000, 2.5)
    block_done("a stage of the test", 10, {}, 0, 0.05)


def exported() -> dict[str, float]:
    """Name and labels of ours -> value, of all that /metrics of this node has on the stage."""
    node = ray.nodes()[0]
    with urlopen(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if 'stage="a stage of the test"' in line]
    found = {}
    for line in lines:
        ours = re.findall(r'\b(?:code|le)="([^"]*)"', line)
        found[" ".join([line.partition("{")[0], *ours])] = float(line.rpartition(" ")[2])
    return found


@pytest.mark.usefixtures("ray_cluster")
def test_what_a_worker_counts_is_at_the_metrics_port_of_its_node() -> None:
    ray.get(ray.remote(work).remote())
    deadline = time.monotonic() + 60  # Ray's workers report every ten seconds
    expected = {
        "ray_gatefold_songs_total": 30,
        "ray_gatefold_read_bytes_total": 2_000,
        "ray_gatefold_rejects_total empty_file": 3,
        "ray_gatefold_rejects_total silent_audio": 1,
        "ray_gatefold_block_seconds_count": 2,
        "ray_gatefold_block_seconds_bucket 0.1": 1,
    }
    while not expected.items() <= (found := exported()).items():
        assert time.monotonic() < deadline, f"within a minute there arrived only {found}"
        time.sleep(0.5)
