"""An endpoint on a Ray cluster that already runs, whose environment is not that of who deploys: keys and the way to
storage go with the deployment."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gatefold.workspace import Workspace
from tests.served import free_port, publish_release

ROOT = Path(__file__).parents[2]
KEY, SECRET = "the-key", "never-to-be-logged-0123456789"
WORKER = """
import os, ray
from pipelines.cluster import connect
connect("http://store:9000")
names = ["AWS_ENDPOINT_URL", "AWS_REGION", "AWS_SECRET_ACCESS_KEY", "GATEFOLD_API_KEYS"]
@ray.remote
def seen():
    return [os.environ.get(name) for name in names]
print(ray.get(seen.remote(), timeout=120))
"""


@dataclass
class Cluster:
    environment: dict[str, str]
    """of who deploys"""
    logs: Path


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """`ray start --head`, with neither keys nor AWS_* in its environment; both are in the driver's."""
    folder = Path(f"/tmp/gk{os.getpid()}")  # sockets lie there: a longer path would be too long for them
    port = free_port()
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GATEFOLD_", "RAY_"))}
    bare |= {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--head", f"--port={port}", "--num-cpus=3"]
    ray += ["--include-dashboard=false", f"--temp-dir={folder}", "--disable-usage-stats", "--block"]
    log = (tmp_path_factory.mktemp("ray") / "ray.log").open("w")
    head = subprocess.Popen(ray, env=bare, stdout=log, stderr=log, cwd=ROOT)
    wait_until(head, f"127.0.0.1:{port}", Path(log.name))
    ours = {
        "RAY_ADDRESS": f"127.0.0.1:{port}",
        "GATEFOLD_API_KEYS": hashlib.sha256(KEY.encode()).hexdigest(),
        "AWS_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    try:
        yield Cluster(bare | ours, folder)
    finally:
        head.terminate()
        head.wait(timeout=60)
        log.close()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(head: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """The cluster answers."""
    status = [str(Path(sys.executable).parent / "ray"), "status", f"--address={address}"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    deadline = time.monotonic() + 120
    while subprocess.run(status, env=environment, capture_output=True, timeout=120).returncode:
        assert head.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(1.0)


def asked(url: str, **headers: str) -> int:
    return httpx.get(f"{url}/v1/releases/current", headers=headers, timeout=30).status_code


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.chaos
def test_keys_of_the_driver_alone_close_the_endpoint_and_storage_settings_reach_workers_unlogged(
    cluster: Cluster, tmp_path: Path
) -> None:
    workspace = Workspace((tmp_path / "workspace").as_uri())
    publish_release(workspace)
    worker = subprocess.run(
        [sys.executable, "-c", WORKER], env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert worker.stdout.strip() == f"['http://store:9000', 'eu-west-1', '{SECRET}', None]", worker.stderr
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "gatefold", "--workspace", workspace.uri, "serve", "--port", str(port)]
    serving = subprocess.Popen(command, env=cluster.environment, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert serving.stdout is not None
    try:
        assert serving.stdout.readline().strip() == url
        assert asked(url) == 401
        assert asked(url, Authorization="Bearer wrong") == 401
        assert asked(url, Authorization=f"Bearer {KEY}") == 200
        create = [sys.executable, "-m", "gatefold", "--workspace", workspace.uri, "keys", "create", "Acme", "--json"]
        made = subprocess.run(create, env=cluster.environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
        secret = json.loads(made.stdout)["secret"]
        deadline = time.monotonic() + 10  # it is known within serve.poll_interval_s, and the machine may be busy
        while asked(url, Authorization=f"Bearer {secret}") != 200:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        serving.send_signal(2)
        serving.wait(timeout=90)
        serving.stdout.close()
        time.sleep(0.5)
    logs = [path for path in cluster.logs.rglob("*") if path.is_file() and path.suffix in (".log", ".out", ".err")]
    assert logs
    assert [path for path in logs if SECRET in path.read_text(errors="replace")] == []
