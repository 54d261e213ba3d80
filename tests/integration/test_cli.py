"""The command line as it is used: one process a command, real Ray, everything small."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from tests.sounds import CLIPS, encoded, tone

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
SMALL = """
synthesis: {songs: 24, artists: 12, duration_s: 3, cover_size: 64}
audio: {sample_rate: 8000, f_max: 4000, n_mels: 32, window_s: 1.28}
cover: {size: 16}
split: {test: 0.3}
encoder: {embed_dim: 16, width: 16, epochs: 2, batch_size: 8}
generator: {patch_size: 4, hidden: 32, layers: 1, heads: 2, neighbours: 2, steps: 4, batch_size: 8,
            num_inference_steps: 3}
evaluation: {covers: 8, sheet: 2}
batch: {rows_per_block: 8}
train: {num_workers: 1}
"""


class Shell:
    """Calls `gatefold` with the small settings, in a folder of its own, on a Ray of its own unless it is given one."""

    def __init__(self, folder: Path, ray_address: str | None = None) -> None:
        self.folder = folder
        self.workspace = folder / "workspace"
        (folder / "small.yaml").write_text(SMALL)
        self._front = [sys.executable, "-m", "gatefold", "--config", "small.yaml", "--workspace", str(self.workspace)]
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        if ray_address:
            self.environment["RAY_ADDRESS"] = ray_address

    def start(self, *args: str) -> "subprocess.Popen[str]":
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            [*self._front, *args],
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
            **pipes,
        )

    def __call__(self, *args: str, code: int = 0) -> Any:
        """The object on stdout."""
        process = self.start(*args, "--json")
        out, err = process.communicate(timeout=300)
        assert process.returncode == code, err
        return json.loads(out)


def heed_ctrl_c() -> None:
    """What runs in the background of a script is born deaf to it, and so are its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Ctrl-C, as a terminal sends it: to the whole group; what was said until the end."""
    os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=120)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, Any]:
    shell = Shell(tmp_path_factory.mktemp("demo"))
    return shell, shell("demo", "--no-serve")


Demo = tuple[Shell, Any]


def test_the_demo_ends_in_a_table_two_sheets_and_a_cover_for_every_clip(demo: Demo) -> None:
    shell, printed = demo
    assert printed["url"] is None
    assert "recall@10" in [row["measure"] for row in printed["evaluation"]]
    for sheet in printed["sheets"].values():
        assert Path(sheet.removeprefix("file://")).stat().st_size > 10_000
    examples = shell.workspace / "examples"
    assert {path.stem for path in examples.glob("*.json")} == {clip.stem for clip in CLIPS}
    assert all((examples / f"{clip.stem}.png").exists() for clip in CLIPS)


def test_after_the_demo_everything_is_fresh_and_nothing_is_done_again(demo: Demo) -> None:
    shell, _ = demo
    assert {stage["state"] for stage in shell("status")["stages"]} == {"fresh"}
    again = shell("run")["stages"]
    assert {stage["stage"]: stage["done"] for stage in again} == dict.fromkeys((one["stage"] for one in again), 0)
    assert {stage["state"] for stage in shell("status", "--set", "encoder.epochs=3")["stages"][3:]} == {"stale"}


def test_a_search_by_file_and_by_song_id_prints_matches(demo: Demo) -> None:
    shell, _ = demo
    found = shell("search", str(CLIPS[1]), "-k", "5")
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3, 4, 5]
    song_id = found["matches"][0]["track"]["song_id"]
    assert len(shell("search", song_id)["matches"]) == 24
    assert shell("search", "nothing-like-it", code=1)["error"]["code"] == "not_found"


def test_the_same_seed_paints_the_same_bytes(demo: Demo) -> None:
    shell, _ = demo
    for folder in ("one", "two"):
        record = shell("generate", str(CLIPS[2]), "-n", "2", "--seed", "7", "--size", "128", "-o", folder)
    assert record["pictures"] == [f"{CLIPS[2].stem}-7.png", f"{CLIPS[2].stem}-8.png"]
    for name in [*record["pictures"], f"{CLIPS[2].stem}.json"]:
        assert (shell.folder / "one" / name).read_bytes() == (shell.folder / "two" / name).read_bytes()


def test_serve_prints_its_url_answers_and_stops_at_ctrl_c(demo: Demo) -> None:
    shell, _ = demo
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = shell.start("serve", "--port", str(port), "--json")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    with urllib.request.urlopen(f"{url}/v1/releases/current", timeout=30) as answer:
        assert json.load(answer)["version"] == shell("release", "list")["current"]
    out, err = interrupt(process)
    assert (process.returncode, out) == (0, ""), err


@pytest.mark.usefixtures("ray_cluster")
def test_a_stage_that_is_interrupted_says_so_and_goes_on_where_it_stopped(demo: Demo) -> None:
    shell = Shell(demo[0].folder, ray.get_runtime_context().gcs_address)
    shell.workspace.mkdir(exist_ok=True)
    manifest = str(shell.workspace / "songs" / "manifest.parquet")
    other = ["--workspace", str(shell.folder / "interrupted"), "--set", "batch.rows_per_block=1"]
    shell("catalogue", manifest, *other)
    process = shell.start("spectrograms", *other)
    parts = shell.folder / "interrupted" / "spectrograms"
    deadline = time.monotonic() + 120
    while not list(parts.rglob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    out, err = interrupt(process)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "stopped; the same command continues where it stopped"
    report = shell("spectrograms", *other)
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == 24


@pytest.mark.usefixtures("ray_cluster")
def test_rejects_above_the_limit_exit_with_3_and_a_retry_counts_the_attempts(tmp_path: Path) -> None:
    shell = Shell(tmp_path, ray.get_runtime_context().gcs_address)
    songs = tmp_path / "songs"
    songs.mkdir()
    (songs / "good.wav").write_bytes(encoded(tone(3.0)))
    (songs / "mended.wav").write_bytes(encoded(tone(3.0, level=0.0)))
    (songs / "bad.wav").write_bytes(encoded(tone(3.0, level=0.0)))
    shell("catalogue", str(songs))
    printed = shell("spectrograms", code=3)
    assert (printed["stages"][0]["rejected"], printed["error"]["code"]) == (2, "too_many_rejects")
    assert shell("rejects", "list")["rejects"][0]["count"] == 2

    (songs / "mended.wav").write_bytes(encoded(tone(3.0)))
    retried = shell("rejects", "retry", "--set", "batch.max_reject_share=1")
    assert retried["retried"] == {"spectrograms": 2}
    assert (retried["stages"][0]["done"], retried["stages"][0]["rejected"]) == (2, 1)
    shell("rejects", "retry", "--set", "batch.max_reject_share=1")

    rows = pq.read_table(shell.workspace / "rejects" / "spectrograms").to_pylist()
    assert [(Path(row["uri"]).name, row["attempt"]) for row in rows] == [("bad.wav", 3)]


def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shell.environment["RAY_ADDRESS"] = f"127.0.0.1:{probe.getsockname()[1]}"
        began = time.monotonic()
        error = shell("covers", code=1)["error"]
    assert error["code"] == "unavailable"
    assert "check RAY_ADDRESS" in error["message"]
    assert time.monotonic() - began < 30
