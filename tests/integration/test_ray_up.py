"""`ray up` with the commands of cluster.yaml, for two nodes on this machine, and a run on them as the file advises.

Ray's provider `local` reaches its nodes by ssh and rsync; here these are scripts that do the same on this machine, in a
home folder for each node.
"""

import json
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.test_joining import write_songs
from tests.shell import ROOT, SMALL

pytestmark = pytest.mark.chaos
HEAD, WORKERS = "127.0.0.1", ["127.0.0.2", "127.0.0.3"]
"""Ray counts the head among its least number of workers, which is how many have an address: so one of them starts"""
WITHIN_S = 240.0
SSH = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do case $1 in -[oipL]) shift 2 ;; *) shift ;; esac; done
node=${1#*@}; shift
[[ $# -eq 0 || $1 == uptime ]] && exec "$@"
export HOME=NODES/$node; mkdir -p "$HOME"; cd "$HOME"
exec bash -c "$*"
"""
RSYNC = """#!/usr/bin/env bash
from=${*: -2:1} to=${*: -1}
node=${to%%:*} to=${to#*:}
HOME=NODES/${node#*@}
to=${to/#\\~/$HOME}
mkdir -p "$(dirname "$to")" && cp -a "$from" "$to"
"""


@dataclass(frozen=True)
class Launcher:
    """Calls `ray` for the cluster that a file describes; what it said."""

    config: Path
    environment: dict[str, str]

    def __call__(self, command: str, *args: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "ray.scripts.scripts", command, str(self.config), *args],
            env=self.environment, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def described(folder: Path, port: int) -> dict[str, Any]:
    """cluster.yaml, with two nodes of this machine in the place of machines that are rented."""
    config = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    for name in ("available_node_types", "head_node_type", "file_mounts", "rsync_exclude", "max_workers"):
        del config[name]
    config["cluster_name"] = folder.name
    config["provider"] = {"type": "local", "head_ip": HEAD, "worker_ips": WORKERS}
    # what is installed is this environment, and `ray stop` would end every Ray of this machine
    config["setup_commands"] = [command for command in config["setup_commands"] if ">> ~/.bashrc" in command]
    for name, node in (("head_start_ray_commands", HEAD), ("worker_start_ray_commands", "${HOME##*/}")):
        (start,) = [command for command in config[name] if "ray start" in command]
        start = start.replace("ray start", f"ray start --num-cpus=2 --node-ip-address={node}")
        config[name] = [start.replace("6379", str(port))]
    path = f"export PATH={Path(sys.executable).parent}:{folder / 'bin'}:$PATH"
    text = json.dumps(config).replace("source /home/ubuntu/gatefold/.venv/bin/activate", path)
    here: dict[str, Any] = json.loads(text.replace("/home/ubuntu/gatefold", str(ROOT)))
    return here


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    """A cluster of two nodes, up."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gf") as made:  # short, for the paths of sockets
        folder = Path(made)
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("ssh", SSH), ("rsync", RSYNC)):
            (programs / name).write_text(text.replace("NODES", str(folder / "nodes")))
            (programs / name).chmod(0o755)
        token = folder / "token"
        token.write_text("a" * 64)
        token.chmod(0o600)
        with socket.socket() as probe:
            probe.bind((HEAD, 0))
            port = int(probe.getsockname()[1])
        config = folder / "cluster.yaml"
        config.write_text(yaml.safe_dump(described(folder, port)))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_TMPDIR": made, "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_MODE": "token"}
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
        started = Launcher(config, environment)
        try:
            started("up", "--yes", "--no-config-cache")
            yield started
        finally:
            # `ray down` would say `ray stop` to the head, which ends every Ray of this machine, other tests' too
            subprocess.run(["pkill", "-KILL", "-f", made], check=False)


def test_ray_up_brings_up_two_nodes_and_a_run_finishes_on_them(tmp_path: Path, launcher: Launcher) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    deadline = time.monotonic() + WITHIN_S
    alive = (
        "import ray; ray.init(address='auto', log_to_driver=False); "
        "print('alive', sum(node['Alive'] for node in ray.nodes()))"
    )
    while "alive 2" not in (said := launcher("exec", f"python -c {shlex.quote(alive)}")):
        assert time.monotonic() < deadline, said
        time.sleep(2)
    manifest = write_songs(tmp_path / "songs")
    run = ["python", "-m", "gatefold", "--config", str(tmp_path / "small.yaml"), "--workspace", str(tmp_path / "made")]
    said = launcher("exec", f"cd {ROOT} && {shlex.join([*run, 'run', str(manifest)])}")
    assert "on the Ray cluster at" in said
    assert (tmp_path / "made" / "releases" / "current").exists()
