"""Jobs on real Ray Serve: on the page, and, whatever is killed, each ends once with the pictures it would have had."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import yaml

from gatefold.config import ServeSettings, Settings
from gatefold.workspace import Workspace
from serve.deploy import deploy, stop
from tests.served import free_port, publish_release, song

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve" / "serve.yaml"
PAGE, CHOOSING = "tests/browser/test_page.py::test_", "tests/browser/test_choosing.py::test_"
JOURNEYS = (
    f"{PAGE}a_song_becomes_a_hundred_matches_and_four_covers_that_begin_by_themselves",
    f"{PAGE}the_same_journey_needs_nothing_but_keys",
    f"{CHOOSING}on_a_phone_covers_begin_near_the_top_and_are_kept_and_compared_by_touch",
)
STEPS = 3000
LEASE_S = 3.0
WITHIN_S = 120.0
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def http(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:  # noqa: ARG001
    """An endpoint with two replicas of the API."""
    folder = tmp_path_factory.mktemp("jobs")
    config = yaml.safe_load(CONFIG.read_text())
    config["applications"][0]["deployments"][0]["num_replicas"] = 2
    (folder / "serve.yaml").write_text(yaml.safe_dump(config))
    workspace = Workspace((folder / "workspace").as_uri())
    publish_release(workspace)
    settings = Settings(serve=ServeSettings(steps_max=STEPS, job_lease_s=LEASE_S))
    path, port = folder / "serve.yaml", free_port()
    url = deploy(path, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port, settings=settings).url
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
    stop()


def kill(deployment: str) -> None:
    """Ends every replica of a deployment at once, as SIGKILL would."""
    named = [one for one in ray.util.list_named_actors(all_namespaces=True) if f"#{deployment}#" in one["name"]]
    assert named
    for one in named:
        ray.kill(ray.get_actor(one["name"], namespace=one["namespace"]))


def patiently(http: httpx.Client, method: str, path: str, **sent: Any) -> httpx.Response:
    """The answer, asked for again while no replica of the API is there."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            answer = http.request(method, path, **sent)
            if answer.status_code < 500:
                return answer
        except httpx.TransportError as error:
            answer = httpx.Response(599, text=repr(error))
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def until(http: httpx.Client, job_id: str, *states: str) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN_S
    while True:
        job: dict[str, Any] = patiently(http, "GET", f"/v1/covers/{job_id}").json()
        if job["state"] in states:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def pictures(http: httpx.Client, job: dict[str, Any]) -> list[bytes]:
    return [patiently(http, "GET", image["url"]).content for image in job["images"]]


def events(http: httpx.Client, job_id: str, after: int = 0) -> list[tuple[int, str]]:
    text = patiently(http, "GET", f"/v1/covers/{job_id}/events", headers={"Last-Event-ID": str(after)}).text
    lines = [block.split("\n") for block in text.split("\n\n") if "data" in block]
    blocks = [dict(line.split(": ", 1) for line in block) for block in lines]
    return [(int(block["id"]), json.loads(block["data"])["state"]) for block in blocks]


def order(seed: int) -> dict[str, Any]:
    """Of a job that takes seconds."""
    return {"data": {"n": "2", "seed": str(seed), "num_inference_steps": "600", "size": "32"}, "files": song()}


def test_the_page_works_with_the_endpoint_by_mouse_by_keys_and_by_touch(http: httpx.Client) -> None:
    """In a process of its own: a browser keeps an event loop, beside which nothing else can have one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *JOURNEYS]
    environment = os.environ | {"GATEFOLD_TEST_URL": str(http.base_url)}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout
    assert f"{len(JOURNEYS)} passed" in done.stdout


@pytest.mark.chaos  # test_job_chaos.py has this too, among other kills
def test_jobs_outlive_the_api_and_its_replicas_answer_alike(http: httpx.Client) -> None:
    keys = [{"Idempotency-Key": f"k{number}"} for number in range(3)]
    made = [http.post("/v1/covers", **order(number), headers=key).json() for number, key in enumerate(keys)]
    until(http, made[0]["job_id"], "running", "succeeded")  # where three requests took longer than a job
    seen = [(1, "queued")]
    kill("Api")
    for number, (job, key) in enumerate(zip(made, keys, strict=True)):
        again = patiently(http, "POST", "/v1/covers", **order(number), headers=key)
        assert (again.json()["job_id"], again.headers["idempotent-replayed"]) == (job["job_id"], "true")
    seen += events(http, made[0]["job_id"], after=1)
    assert [number for number, _ in seen] == list(range(1, len(seen) + 1))
    assert [state for _, state in seen].count("succeeded") == 1
    ended = [until(http, job["job_id"], "succeeded", "failed") for job in made]
    assert [job["state"] for job in ended] == ["succeeded"] * 3
    listed = http.get("/v1/covers", params={"limit": 3}).json()["jobs"]
    assert [job["job_id"] for job in listed] == [job["job_id"] for job in reversed(made)]
    assert all(job["queued_s"] >= 0 and job["generation_s"] > 0 and job["expires_at"] for job in ended)
    kill("Api")  # what was generated is not in their memory
    undisturbed = http_post_and_wait(http, order(1))
    assert pictures(http, ended[1]) == pictures(http, undisturbed)
    assert len(pictures(http, ended[1])) == 2


def http_post_and_wait(http: httpx.Client, sent: dict[str, Any]) -> dict[str, Any]:
    return until(http, patiently(http, "POST", "/v1/covers", **sent).json()["job_id"], "succeeded", "failed")


@pytest.mark.chaos  # test_job_chaos.py has this too, among other kills
def test_a_job_whose_runner_is_killed_is_run_again_and_has_the_same_bytes(http: httpx.Client) -> None:
    undisturbed = http_post_and_wait(http, order(7))
    job_id = http.post("/v1/covers", **order(7)).json()["job_id"]
    until(http, job_id, "running")
    kill("Runner")
    job = until(http, job_id, "succeeded", "failed")
    assert job["state"] == "succeeded", job
    states = [state for _, state in events(http, job_id)]
    assert (states.count("succeeded"), states.count("queued")) == (1, 2)
    assert pictures(http, job) == pictures(http, undisturbed)


@pytest.mark.chaos  # test_job_chaos.py has this too, among other kills
def test_a_cancelled_job_stays_so_when_its_runner_is_killed(http: httpx.Client) -> None:
    job_id = http.post("/v1/covers", **order(8)).json()["job_id"]
    until(http, job_id, "running")
    assert http.delete(f"/v1/covers/{job_id}").json()["state"] == "cancelled"
    kill("Runner")
    assert http_post_and_wait(http, order(9))["state"] == "succeeded"
    assert http.get(f"/v1/covers/{job_id}").json()["state"] == "cancelled"
