"""A cluster of two nodes on this machine, as `ray start` makes it there and on the head of `cluster.yaml`."""

import csv
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from tests.shell import Shell
from tests.sounds import encoded, tone

pytestmark = pytest.mark.slow
_SONGS, _ARTISTS = 24, 12
_SPLITS = ("test", "validation", "train", "train")  # of every four artists


@pytest.fixture
def cluster() -> Iterator[dict[str, str]]:
    """The environment in which a cluster of two nodes runs, which asks for a token."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="gf") as folder:  # short, for the paths of sockets
        token = Path(folder) / "token"
        token.write_text("a" * 64)
        token.chmod(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment |= {"RAY_TMPDIR": folder, "RAY_AUTH_TOKEN_PATH": str(token)}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        nodes: list[subprocess.Popen[str]] = []
        try:
            nodes.append(start_node(environment, "--head", f"--port={port}", "--include-dashboard=false"))
            nodes.append(start_node(environment, f"--address=127.0.0.1:{port}"))
            yield environment
        finally:
            for node in reversed(nodes):
                node.terminate()
                node.communicate(timeout=60)


def start_node(environment: dict[str, str], *args: str) -> "subprocess.Popen[str]":
    """`ray start`, which stays with its node and takes it away at SIGTERM; the node is there when this returns."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--num-cpus=2", "--block", *args]
    environment = environment | {"RAY_AUTH_MODE": "token", "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
    node = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert node.stdout is not None
    said: list[str] = []
    while not said or "Ray runtime started" not in said[-1]:
        said.append(node.stdout.readline())
        assert said[-1], "".join(said)
    return node


def write_songs(folder: Path) -> Path:
    """Songs with covers by several artists; the manifest."""
    folder.mkdir()
    with (folder / "songs.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["song_id", "audio_uri", "cover_uri", "artist", "genre", "split"])
        for number in range(_SONGS):
            (folder / f"{number}.wav").write_bytes(encoded(tone(3.0, hertz=200.0 + 40 * number)))
            Image.new("RGB", (64, 64), (10 * number, 255 - 10 * number, 90)).save(folder / f"{number}.png")
            artist = number % _ARTISTS
            files = [f"{number}.wav", f"{number}.png"]
            rows.writerow([f"s{number}", *files, f"artist {artist}", f"genre {artist % 3}", _SPLITS[artist % 4]])
    return folder / "songs.csv"


@pytest.mark.chaos
def test_a_run_joins_the_cluster_of_this_machine_and_finishes_on_its_two_nodes(
    tmp_path: Path, cluster: dict[str, str]
) -> None:
    shell = Shell(tmp_path)
    shell.environment = cluster | {"PYTHONPATH": shell.environment["PYTHONPATH"]}  # without RAY_ADDRESS
    process = shell.start("run", str(write_songs(tmp_path / "songs")), "--json")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "on the Ray cluster at" in err
    assert "(it runs on this machine; RAY_ADDRESS=local starts another)" in err
    program = (
        "from pipelines.cluster import connect; connect(); import ray; "
        "print(len([node for node in ray.nodes() if node['Alive']]))"
    )
    counted = subprocess.run(
        [sys.executable, "-c", program], env=shell.environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert counted.stdout.split()[-1] == "2", out


@pytest.mark.chaos  # tests/unit/pipelines/test_verbose.py has what Ray is asked for
def test_verbose_shows_what_ray_logs_and_without_it_nothing_of_it_is_seen(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    manifest = str(write_songs(tmp_path / "songs"))
    said = {}
    for flag in ("--verbose", "--json"):
        process = shell.start("catalogue", manifest, flag)
        _, said[flag] = process.communicate(timeout=300)
        assert process.returncode == 0, said[flag]
    assert "Started a local Ray instance" in said["--verbose"]
    assert "Started a local Ray instance" not in said["--json"]
    assert said["--json"].splitlines()[1] == "on a Ray of this command's own (RAY_ADDRESS is 'local')"
