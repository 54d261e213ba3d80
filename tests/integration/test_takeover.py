"""The running endpoint while its workspace changes: releases take over under load, songs are withdrawn.

The tests go through one endpoint's life in their order.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from ray import serve

from gatefold.config import ServeSettings, Settings
from gatefold.storage import objects
from gatefold.storage.contents import optouts, releases
from gatefold.workspace import Workspace
from serve.deploy import deploy, stop
from serve.endpoint import Endpoint
from serve.ray_private import described_applications
from tests.factories import publish_small_release
from tests.sounds import encoded, tone

ROOT = Path(__file__).parents[2]
SONG = {"song": ("tone.wav", encoded(tone(1.5)))}
TRACKS = 12
NEW = f"s{TRACKS}"
"""a song that the second release has, and the first has not"""
WITHIN_S = 120.0
MINUTES = pytest.mark.chaos
"""of what `make test` has no time for"""
pytestmark = MINUTES


@pytest.fixture(scope="module")
def workspace(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Workspace:  # noqa: ARG001
    made = Workspace((tmp_path_factory.mktemp("takeover") / "workspace").as_uri())
    publish_small_release(made, TRACKS)
    return made


@pytest.fixture(scope="module")
def endpoint(workspace: Workspace) -> Iterator[Endpoint]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    yield start(workspace, port)
    stop()


def start(workspace: Workspace, port: int) -> Endpoint:
    settings = Settings(serve=ServeSettings(steps_max=1000, poll_interval_s=0.2))
    config = ROOT / "serve" / "serve.yaml"
    return deploy(config, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port, settings=settings)


@pytest.fixture
def http(endpoint: Endpoint) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=endpoint.url, timeout=60) as client:
        yield client


@dataclass
class Load:
    """What clients were answered that asked all the time, by any route that encodes, searches or looks up."""

    url: str
    answers: list[tuple[float, float, str, str]] = field(default_factory=list)
    """when it was asked and answered, and the release and the encoder that answered"""
    errors: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def ask(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._stop.is_set():
                try:
                    for request in ({"files": SONG, "data": {"k": "5"}}, {"json": {"song_id": "s4", "k": 5}}):
                        self.note(time.monotonic(), client.post("/v1/searches", **request))
                    looked_up = client.get("/v1/tracks/s4")
                    if looked_up.status_code != 200:
                        self.errors.append(looked_up.text)
                except httpx.HTTPError as error:
                    self.errors.append(repr(error))
                time.sleep(0.03)

    def note(self, asked: float, answer: httpx.Response) -> None:
        if answer.status_code != 200 or len(answer.json()["matches"]) != 5:
            self.errors.append(answer.text)
            return
        self.answers.append((asked, time.monotonic(), answer.json()["release"], answer.json()["encoder"]))

    def releases(self, begin: float, end: float) -> set[str]:
        """Which answered what was asked and answered between these two times."""
        return {release for asked, answered, release, _ in self.answers if begin < asked and answered < end}


@contextmanager
def load(url: str, clients: int = 3) -> Iterator[Load]:
    asking = Load(url)
    threads = [threading.Thread(target=asking.ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield asking
    finally:
        asking._stop.set()
        for thread in threads:
            thread.join()


def follow(endpoint: Endpoint) -> str:
    deadline = time.monotonic() + WITHIN_S
    while (news := endpoint.follow()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return news


def api_pid() -> int:
    api = described_applications()["gatefold"]["deployments"]["Api"]
    (replica,) = api["replicas"]
    return int(replica["pid"])


def test_releases_take_over_and_back_under_load_without_an_error(
    endpoint: Endpoint, workspace: Workspace, http: httpx.Client
) -> None:
    encoders = {"r1": releases.current(workspace).encoder.fingerprint}
    assert http.get(f"/v1/tracks/{NEW}").status_code == 404
    api = api_pid()
    slow = {"song_id": "s1", "n": 8, "num_inference_steps": 1000}
    longer_than_all_this = [http.post("/v1/covers", json=slow).json()["job_id"] for _ in range(10)]
    behind_them = http.post("/v1/covers", json={"song_id": "s1", "n": 1}).json()["job_id"]
    streamed: list[str] = []
    with load(endpoint.url) as asking, http.stream("GET", f"/v1/covers/{behind_them}/events") as events:
        reading = threading.Thread(target=lambda: streamed.extend(events.iter_text()))
        reading.start()
        encoders["r2"] = publish_small_release(workspace, TRACKS + 1, number=2).encoder.fingerprint
        assert follow(endpoint) == "release r2 serves now"
        gone_over = time.monotonic()
        assert http.get(f"/v1/tracks/{NEW}").status_code == 200
        assert http.post("/v1/searches", json={"song_id": NEW, "k": TRACKS + 1}).json()["release"] == "r2"
        assert http.get(f"/v1/covers/{behind_them}").json()["state"] == "queued"
        for job in longer_than_all_this:
            http.delete(f"/v1/covers/{job}")
        reading.join()
        seen_through = http.get(f"/v1/covers/{behind_them}").json()
        assert (seen_through["state"], seen_through["release"]) == ("succeeded", "r2"), seen_through
        time.sleep(0.5)
        going_back = time.monotonic()
        releases.rollback(workspace)
        assert follow(endpoint) == "release r1 serves now"
        gone_back = time.monotonic()
        time.sleep(0.5)
    assert asking.errors == []
    assert '"state":"succeeded"' in streamed[-1]
    assert asking.releases(gone_over, going_back) == {"r2"}
    assert asking.releases(gone_back, time.monotonic()) == {"r1"}
    assert {(release, encoder) for _, _, release, encoder in asking.answers} == set(encoders.items())
    assert api_pid() == api, "the replica was exchanged"


def test_the_release_before_is_stopped_once_nothing_needs_it(endpoint: Endpoint) -> None:
    deadline = time.monotonic() + WITHIN_S
    while set(serve.status().applications) != {"gatefold", "release-r1"}:
        endpoint.follow()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_release_that_cannot_be_served_changes_nothing_and_is_reported(
    endpoint: Endpoint, workspace: Workspace, http: httpx.Client
) -> None:
    publish_small_release(workspace, TRACKS, number=3)
    (vectors,) = [info.uri for info in objects.list_objects(f"{workspace.indexes}/i3") if info.uri.endswith(".faiss")]
    data = objects.read(vectors)
    objects.put(vectors, data[:-9] + bytes(9))  # as long as it was
    with load(endpoint.url, clients=1) as asking:
        message = follow(endpoint)
    assert message.startswith("release r3 cannot serve: it did not start: ")
    assert "i3" in message
    assert message.endswith("; release r1 goes on")
    assert asking.errors == []
    assert {release for _, _, release, _ in asking.answers} == {"r1"}
    objects.put(f"{workspace.releases}/current", b'{"activated": ["r1", "r9"]}')
    assert follow(endpoint) == "there is no release 'r9'; see `gatefold release list`; release r1 goes on"
    assert http.get("/v1/releases/current").json()["version"] == "r1"
    releases.rollback(workspace)
    assert follow(endpoint) == "release r1 serves now"


def test_another_driver_takes_the_endpoint_over_as_it_stands(
    endpoint: Endpoint, workspace: Workspace, http: httpx.Client
) -> None:
    api = api_pid()
    with load(endpoint.url, clients=1) as asking:
        another = start(workspace, httpx.URL(endpoint.url).port or 0)
        assert another.follow() is None
    assert asking.errors == []
    assert api_pid() == api
    assert http.get("/v1/releases/current").json()["version"] == "r1"


def found(http: httpx.Client, k: int) -> list[str]:
    matches = http.post("/v1/searches", files=SONG, data={"k": str(k)}).json()["matches"]
    return [match["track"]["song_id"] for match in matches]


def test_a_withdrawn_song_is_gone_from_the_next_query_and_stays_so_over_sigkill(
    endpoint: Endpoint, workspace: Workspace, http: httpx.Client
) -> None:
    before = found(http, 6)
    api = api_pid()
    assert http.delete(f"/v1/tracks/{before[1]}").status_code == 204
    os.kill(api, signal.SIGKILL)
    assert optouts.song_ids(workspace) == {before[1]}
    deadline = time.monotonic() + WITHIN_S
    while True:
        with httpx.Client(base_url=endpoint.url, timeout=60) as client:
            answer = client.get(f"/v1/tracks/{before[1]}")
        if answer.status_code == 404:
            break
        assert answer.status_code == 500, answer.text
        assert time.monotonic() < deadline
        time.sleep(0.1)
    after = found(http, 5)
    assert after == [before[0], *before[2:6]]


def test_a_song_withdrawn_on_the_command_line_stays_so_when_that_is_killed(
    endpoint: Endpoint,  # noqa: ARG001  it runs meanwhile
    workspace: Workspace,
    http: httpx.Client,
) -> None:
    nearest = found(http, 3)
    command = [sys.executable, "-m", "gatefold", "--workspace", workspace.uri, "opt-out", nearest[0], "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert nearest[0] in process.stdout.readline().decode()
        process.kill()
    assert nearest[0] in optouts.song_ids(workspace)
    deadline = time.monotonic() + 5
    while found(http, 1) == nearest[:1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert found(http, 2) == nearest[1:]
