"""Ctrl-C and SIGTERM end every command in order, however it was started: exit code, last word, leases, no processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray

from tests.shell import Shell
from tests.sounds import encoded, tone

pytestmark = pytest.mark.slow
LAST_WORD = "stopped; the same command continues where it stopped"
ONE_BY_ONE = ["--set", "batch.rows_per_block=1"]
WAYS = {
    "a script's background": "{command} 2> said & echo $!; wait $!; exit $?",
    "nohup in a script's background": "nohup {command} 2> said & echo $!; wait $!; exit $?",
    "the foreground": "echo $$; exec {command} 2> said",
}


class Started:
    """A command that bash has started in one of the ways."""

    def __init__(self, shell: Shell, way: str, *args: str) -> None:
        self._said = shell.folder / "said"
        line = WAYS[way].format(command=shell.command(*args))
        self._bash = subprocess.Popen(
            ["bash", "-c", line],
            cwd=shell.folder, env=shell.environment, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._bash.stdout is not None
        self.pid = int(self._bash.stdout.readline())

    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def wait_until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 300
        while not reached():
            assert self._bash.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.02)

    def code(self) -> int:
        """Once it has ended, and every process that it had started."""
        code = self._bash.wait(timeout=120)
        assert self._bash.stdout is not None
        self._bash.stdout.close()
        deadline = time.monotonic() + 60
        while alive_in_session(self._bash.pid):
            assert time.monotonic() < deadline, alive_in_session(self._bash.pid)
            time.sleep(0.1)
        return code

    def kill_group(self, number: signal.Signals) -> None:
        os.killpg(self._bash.pid, number)


def alive_in_session(session: int) -> list[str]:
    listed = subprocess.run(["ps", "-ww", "-eo", "sess=,stat=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return [row[2] for row in rows if int(row[0]) == session and not row[1].startswith("Z")]


def shell_with_songs(folder: Path) -> Shell:
    shell = Shell(folder)
    (folder / "songs").mkdir()
    for number in range(40):
        (folder / "songs" / f"{number}.wav").write_bytes(encoded(tone(3.0)))
    return shell


@pytest.mark.parametrize(
    ("way", "number", "code"),
    [
        pytest.param("a script's background", signal.SIGINT, 130, marks=pytest.mark.chaos),
        pytest.param("nohup in a script's background", signal.SIGTERM, 143, marks=pytest.mark.chaos),
        ("the foreground", signal.SIGTERM, 143),
    ],
)
@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_that_is_stopped_lets_go_of_its_lease_and_goes_on_later(
    tmp_path: Path, way: str, number: signal.Signals, code: int
) -> None:
    shell = shell_with_songs(tmp_path)
    joined = Shell(tmp_path, ray_address=ray.get_runtime_context().gcs_address)  # that is there
    joined("catalogue", "songs")
    parts = tmp_path / "workspace" / "spectrograms"
    started = Started(shell, way, "spectrograms", *ONE_BY_ONE)
    started.wait_until(lambda: any(parts.rglob("*.parquet")))
    before = len(started.said())
    os.kill(started.pid, number)
    assert started.code() == code, started.said()
    said = started.said()[before:].splitlines()
    assert [line for line in said if not line.startswith("spectrograms:")] == [LAST_WORD]
    (holder,) = (tmp_path / "workspace" / "runs" / "spectrograms" / "lease").iterdir()
    assert json.loads(holder.read_text())["released"]
    report = joined("spectrograms", *ONE_BY_ONE)
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == 40


def test_sigterm_while_ray_starts_ends_the_command_and_ray(tmp_path: Path) -> None:
    shell = shell_with_songs(tmp_path)
    started = Started(shell, "the foreground", "catalogue", "songs")
    started.wait_until(lambda: any("gcs_server" in args for args in alive_in_session(os.getsid(started.pid))))
    os.kill(started.pid, signal.SIGTERM)
    assert started.code() == 143, started.said()
    assert started.said().splitlines()[-1] == LAST_WORD


WORKERS_DIE = """
import os, signal, sys, time
import ray
from pipelines.cluster import connect, disconnect

connect()

@ray.remote(num_cpus=0.1, max_retries=0)
def work(folder):
    open(f"{folder}/{os.getpid()}", "w").close()
    time.sleep(60)

folder = sys.argv[1]
waited_for = [work.remote(folder) for _ in range(4)]
while len(os.listdir(folder)) < 4:
    time.sleep(0.1)
for pid in os.listdir(folder):
    os.kill(int(pid), signal.SIGKILL)
disconnect()
print("the last word")
"""


def test_what_the_raylet_says_of_killed_workers_while_ray_ends_does_not_cover_the_last_words(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "pids").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WORKERS_DIE, str(tmp_path / "pids")],
        env=shell.environment, capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("the last word\n", "")


@pytest.mark.chaos
def test_sigterm_for_the_demo_and_all_of_rays_processes_keeps_the_checkpoint_of_its_training(tmp_path: Path) -> None:
    """As systemd does it, and a container."""
    shell = Shell(tmp_path)
    started = Started(shell, "the foreground", "demo", "--no-serve", "--set", "encoder.epochs=4000")
    runs = tmp_path / "workspace" / "runs"
    started.wait_until(lambda: any(runs.glob("encoder-*/step-*/*")))
    before = len(started.said())
    started.kill_group(signal.SIGTERM)
    assert started.code() == 143, started.said()
    said = started.said()[before:].splitlines()
    assert [line for line in said if not line.startswith("train-encoder:")] == [LAST_WORD]
    assert any(runs.glob("encoder-*/step-*/*"))
