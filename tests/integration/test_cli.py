"""The command line as it is used: real Ray, everything small; the verbs that follow the demo find it in a bucket."""

import json
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq
import pytest
import ray

from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.workspace import Workspace
from tests.shell import ROOT, Demo, Shell, interrupt
from tests.sounds import CLIPS, encoded, tone

pytestmark = pytest.mark.slow


def test_the_demo_ends_in_a_table_two_sheets_and_a_cover_for_every_clip(demo: Demo) -> None:
    printed = demo.printed
    assert printed["url"] is None
    assert "recall@10" in [row["measure"] for row in printed["evaluation"]]
    for sheet in printed["sheets"].values():
        assert objects.stat(sheet).size_bytes > 10_000
    examples = {objects.name(info.uri) for info in objects.list_objects(f"{demo.shell.workspace}/examples")}
    assert {f"{clip.stem}.{kind}" for clip in CLIPS for kind in ("json", "png")} <= examples


def test_after_the_demo_everything_is_fresh_and_nothing_is_done_again(demo: Demo) -> None:
    shell = demo.shell
    assert {stage["state"] for stage in shell("status")["stages"]} == {"fresh"}
    again = shell("run", f"{shell.workspace}/songs/manifest.parquet")["stages"]
    assert {stage["stage"]: stage["done"] for stage in again} == dict.fromkeys((one["stage"] for one in again), 0)
    assert {stage["state"] for stage in shell("status", "--set", "encoder.epochs=3")["stages"][3:]} == {"stale"}


def test_a_search_by_file_and_by_song_id_prints_matches(demo: Demo) -> None:
    shell = demo.shell
    found = shell("search", str(CLIPS[1]), "-k", "5")
    assert [match["rank"] for match in found["matches"]] == [1, 2, 3, 4, 5]
    song_id = found["matches"][0]["track"]["song_id"]
    assert len(shell("search", song_id)["matches"]) == 48
    assert shell("search", "nothing-like-it", code=1)["error"]["code"] == "not_found"


@pytest.fixture(scope="module")
def generated(demo: Demo) -> dict[str, Any]:
    """What `gatefold generate` says of two covers, of the seeds 7 and 8, in the folder `two`."""
    record: dict[str, Any] = demo.shell(
        "generate", str(CLIPS[2]), "-n", "2", "--seed", "7", "--size", "64", "-o", "two"
    )
    return record


def test_generated_covers_are_files_with_sources_whose_shares_sum_to_one(demo: Demo, generated: dict[str, Any]) -> None:
    assert generated["pictures"] == [f"{CLIPS[2].stem}-7.png", f"{CLIPS[2].stem}-8.png"]
    for name, cover in zip(generated["pictures"], generated["covers"], strict=True):
        assert sum(source["share"] for source in cover["sources"]) == pytest.approx(1, abs=1e-3)
        for file in (name, name.replace(".png", "-sources.png")):
            assert (demo.shell.folder / "two" / file).read_bytes().startswith(b"\x89PNG")


def test_a_request_that_the_generator_has_no_use_for_is_refused(demo: Demo) -> None:
    refused = demo.shell("generate", str(CLIPS[2]), "--guidance", "2", "-o", "none", code=2)["error"]
    assert "guidance_scale = 2.0: a generator of kind 'local-score' has no guidance_scale" in refused["message"]


THROUGHPUT = dict(
    line.split("=") for line in (ROOT / "infra" / "throughput.env").read_text().splitlines() if not line.startswith("#")
)


def served_cover(url: str, clip: Path, *, seed: int, size: int) -> bytes:
    """The PNG that the endpoint gives for a song, alone in its job."""
    with httpx.Client(base_url=url, timeout=120) as client:
        fields = {"n": "1", "seed": str(seed), "size": str(size)}
        song = {"song": (clip.name, clip.read_bytes())}
        job = client.post("/v1/covers", files=song, data=fields, headers={"Prefer": "wait=60"}).json()
        assert job["state"] == "succeeded", job
        return client.get(job["images"][0]["url"]).content


def haproxy_listens(port: int) -> bool:
    """By the files that Ray writes for it."""
    written = Path("/tmp/haproxy-serve").glob("**/haproxy.cfg")
    return any(f"bind 127.0.0.1:{port}\n" in config.read_text() for config in written)


@pytest.mark.parametrize(
    ("environment", "stop", "code"),
    [
        pytest.param({}, signal.SIGTERM, 143, id="as it is, SIGTERM"),
        pytest.param(THROUGHPUT, signal.SIGINT, 0, id="throughput.env, Ctrl-C", marks=pytest.mark.chaos),
    ],
)
def test_serve_prints_its_url_answers_and_stops_in_order(
    demo: Demo,
    generated: dict[str, Any],
    environment: dict[str, str],
    stop: signal.Signals,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And a cover has the same bytes over HTTP, alone in its job, as on the command line beside another."""
    shell = demo.shell
    database = {"GATEFOLD_DATABASE_URL": f"sqlite:///{shell.folder}/jobs.sqlite"}  # the workspace is a bucket
    for name, value in (environment | database).items():
        monkeypatch.setitem(shell.environment, name, value)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = shell.start("serve", "--port", str(port), "--json")
    assert process.stdout is not None
    url = json.loads(process.stdout.readline())["url"]
    with urllib.request.urlopen(f"{url}/v1/releases/current", timeout=30) as answer:
        assert json.load(answer)["version"] == releases.current(Workspace(shell.workspace)).version
    on_the_command_line = (shell.folder / "two" / generated["pictures"][1]).read_bytes()
    assert served_cover(url, CLIPS[2], seed=8, size=64) == on_the_command_line
    assert haproxy_listens(port) == bool(environment)
    out, err = interrupt(process, stop)
    assert (process.returncode, out) == (code, ""), err
    assert err.splitlines()[-1].startswith("stopped")
    assert err.splitlines()[-2] == "Ctrl-C stops the endpoint"


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.chaos
def test_a_stage_that_is_interrupted_says_so_and_goes_on_where_it_stopped(demo: Demo, tmp_path: Path) -> None:
    shell = Shell(tmp_path, ray_address=ray.get_runtime_context().gcs_address)
    one_by_one = ["--set", "batch.rows_per_block=1"]
    shell("catalogue", f"{demo.shell.workspace}/songs/manifest.parquet", *one_by_one)
    process = shell.start("spectrograms", *one_by_one)
    parts = tmp_path / "workspace" / "spectrograms"
    deadline = time.monotonic() + 120
    while not list(parts.rglob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    out, err = interrupt(process)
    assert (process.returncode, out) == (130, ""), err
    assert err.splitlines()[-1] == "stopped; the same command continues where it stopped"
    report = shell("spectrograms", *one_by_one)
    assert report["skipped"] >= 1
    assert report["done"] + report["skipped"] == 48


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.chaos  # test_journey.py and tests/unit/cli/test_main.py have it in parts
def test_rejects_above_the_limit_exit_with_3_and_a_retry_counts_the_attempts(tmp_path: Path) -> None:
    shell = Shell(tmp_path, ray_address=ray.get_runtime_context().gcs_address)
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

    rows = pq.read_table(tmp_path / "workspace" / "rejects" / "spectrograms").to_pylist()
    assert [(Path(row["uri"]).name, row["attempt"]) for row in rows] == [("bad.wav", 3)]


def test_a_cluster_that_is_not_there_is_reported_at_once(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shell.environment["RAY_ADDRESS"] = f"127.0.0.1:{probe.getsockname()[1]}"
        began = time.monotonic()
        error = shell("catalogue", str(tmp_path), code=1)["error"]
    assert error["code"] == "unavailable"
    assert "check RAY_ADDRESS" in error["message"]
    assert time.monotonic() - began < 30
