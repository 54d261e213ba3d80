"""Clients that send too slowly, too much or too many at once, on a real Ray Serve: others are answered meanwhile."""

import json
import os
import select
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from gatefold.config import ServeSettings, Settings
from gatefold.workspace import Workspace
from serve.deploy import deploy, stop
from tests.served import free_port, publish_release, song

CONFIG = Path(__file__).parents[2] / "serve" / "serve.yaml"
SLOW = 1_100
BODY_TIMEOUT_S = 20.0
GENEROUS_S = 5.0
"""on a busy machine; a second on a quiet one"""
GIVEN_BACK = 30e6
"""bytes that may be left of all uploads"""
CALLERS, GROWS_BY = 200, 200e6
SEARCH = {"song_id": "song/1", "k": 3}
UPLOAD = b"POST /v1/searches HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=f\r\n"
SLOW_STARTS = {
    "small": UPLOAD + b"Content-Length: 1000\r\n\r\n--f\r\n",
    "large": UPLOAD + b"Content-Length: 45000000\r\n\r\n--f\r\n",
    "chunked": UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n--f\r\n",
    "header": b"POST ",
}


@pytest.fixture(scope="module")
def url(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001
    workspace = Workspace((tmp_path_factory.mktemp("slow") / "workspace").as_uri())
    publish_release(workspace)
    settings = Settings(serve=ServeSettings(body_timeout_s=BODY_TIMEOUT_S))
    port = free_port()
    yield deploy(CONFIG, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port, settings=settings).url
    stop()


def connected(url: str, start: bytes) -> socket.socket:
    address = httpx.URL(url)
    client = socket.create_connection((address.host, address.port or 80), timeout=60)
    client.sendall(start)
    return client


def seconds(ask: Callable[[], httpx.Response]) -> float:
    began = time.monotonic()
    answer = ask()
    assert answer.status_code == 200, answer.text
    return time.monotonic() - began


@pytest.mark.chaos
def test_health_and_searches_are_answered_beside_1100_clients_that_send_five_bytes_and_stop(url: str) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        http.post("/v1/searches", files=song()).raise_for_status()
        kinds = list(SLOW_STARTS)
        slow = [(kind := kinds[number % len(kinds)], connected(url, SLOW_STARTS[kind])) for number in range(SLOW)]
        asks: dict[str, Callable[[], httpx.Response]] = {
            "live": lambda: http.get("/v1/health/live"),
            "ready": lambda: http.get("/v1/health/ready"),
            "search": lambda: http.post("/v1/searches", json=SEARCH),
            "upload": lambda: http.post("/v1/searches", files=song()),
        }
        try:
            for name, ask in asks.items():
                took = sorted(seconds(ask) for _ in range(12))
                record(f"{name}: median {took[6]:.3f} s, max {took[-1]:.3f} s")
                assert took[-1] < GENEROUS_S, name
            answers = Counter(status_of(kind, client) for kind, client in slow)
        finally:
            for _, client in slow:
                client.close()
    record(str(answers))
    assert answers[("small", 408)] == SLOW // len(kinds)  # at their deadline
    for kind in ("large", "chunked"):  # at once for want of room, or when they have stalled
        assert answers[(kind, 408)] + answers[(kind, 429)] == SLOW // len(kinds)


def status_of(kind: str, client: socket.socket) -> tuple[str, int]:
    """What the client was answered; 0 where nothing is answered to half a header."""
    limit_s = 0.0 if kind == "header" else BODY_TIMEOUT_S + 30
    answered = select.poll()  # select itself knows no descriptor above 1,023
    answered.register(client, select.POLLIN)
    if not answered.poll(limit_s * 1000):
        return kind, 0
    head, _, body = client.recv(65_536).partition(b"\r\n\r\n")
    status = int(head.split()[1])
    if status == 429:
        assert b"retry-after: " in head.lower()
    assert b"application/problem+json" in head
    assert not body or json.loads(body)["status"] == status
    return kind, status


@pytest.mark.chaos
def test_sixteen_large_uploads_at_once_take_bounded_memory_and_give_it_back(url: str) -> None:
    processes = pids()
    large = {"song": ("large.wav", song()["song"][1] + bytes(45_000_000))}
    with httpx.Client(base_url=url, timeout=120) as http:
        http.post("/v1/searches", files=song()).raise_for_status()
        before = {name: rss(pid) for name, pid in processes.items()}
        peak, over = dict(before), threading.Event()
        watching = threading.Thread(target=watch, args=(processes, peak, over))
        watching.start()
        with ThreadPoolExecutor(16) as clients:
            statuses = Counter(clients.map(lambda _: upload(http, large), range(16)))
        deadline = time.monotonic() + 30
        while rss(processes["Api"]) - before["Api"] >= GIVEN_BACK and time.monotonic() < deadline:
            time.sleep(0.2)
        over.set()
        watching.join()
        after = {name: rss(pid) for name, pid in processes.items()}
    grown = {name: (f"peak +{(peak[name] - before[name]) / 1e6:.0f} MB, "
                    f"after +{(after[name] - before[name]) / 1e6:.0f} MB") for name in processes}  # fmt: skip
    record(f"{statuses} {grown}")
    assert set(processes) == {"Api", "ProxyActor"}
    assert statuses[200] >= 1
    assert set(statuses) <= {200, 429, 0}
    assert peak["Api"] - before["Api"] < 100e6
    assert after["Api"] - before["Api"] < GIVEN_BACK


@pytest.mark.chaos
def test_two_hundred_callers_at_once_meet_no_fault_and_leave_memory_bounded(url: str) -> None:
    processes = pids("Api", "Runner")
    with httpx.Client(base_url=url, timeout=300, limits=httpx.Limits(max_connections=CALLERS)) as http:
        http.post("/v1/searches", files=song()).raise_for_status()
        before = {name: rss(pid) for name, pid in processes.items()}
        peak, over = dict(before), threading.Event()
        watching = threading.Thread(target=watch, args=(processes, peak, over))
        watching.start()
        together = threading.Barrier(CALLERS)
        with ThreadPoolExecutor(CALLERS) as callers:
            statuses = Counter(status for some in callers.map(lambda n: call(http, together, n), range(CALLERS))
                               for status in some)  # fmt: skip
        over.set()
        watching.join()
    grown = {name: f"{before[name] / 1e6:.0f} MB, peak +{(peak[name] - before[name]) / 1e6:.0f} MB" for name in before}
    record(f"{dict(statuses)} {grown}")
    assert set(processes) == {"Api", "Runner"}
    assert set(statuses) <= {200, 202, 429}
    assert statuses[200] >= 2 * CALLERS
    assert statuses[202] >= 1
    assert all(peak[name] - before[name] < GROWS_BY for name in processes)


def call(http: httpx.Client, together: threading.Barrier, number: int) -> list[int]:
    """What a caller is answered: two searches, a song, a job and its state."""
    together.wait()
    found = [http.post("/v1/searches", json=SEARCH).status_code for _ in range(2)]
    found.append(upload(http, song(frequency=200.0 + number)))
    job = http.post("/v1/covers", json={"song_id": "song/2", "n": 1, "size": 32})
    found.append(job.status_code)
    if job.status_code == 202:
        found.append(http.get(job.headers["location"]).status_code)
    return found


def record(measured: str) -> None:
    sys.stderr.write(measured + "\n")


def upload(http: httpx.Client, files: dict[str, tuple[str, bytes]]) -> int:
    try:
        return http.post("/v1/searches", files=files).status_code
    except httpx.TransportError:  # refused before it was sent, and the connection closed
        return 0


def pids(*deployments: str) -> dict[str, int]:
    """The processes of our own Ray that a request comes through, or of these deployments."""
    wanted = [f"ServeReplica:gatefold:{name}" for name in deployments] or ["ServeReplica:gatefold:Api", "ProxyActor"]
    found: dict[str, int] = {}
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        title = line.read_bytes().decode(errors="replace") if line.exists() else ""
        for name in wanted:
            if name in title and descends(int(line.parent.name)):
                found[name.split(":")[-1]] = int(line.parent.name)
    return found


def descends(pid: int) -> bool:
    """From this process."""
    while pid > 1 and pid != os.getpid():
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return pid == os.getpid()


def rss(pid: int) -> int:
    """Bytes that are the process's own: what it shares with all others is the object store's."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("RssAnon:")[2].split()[0]) * 1024


def watch(processes: dict[str, int], peak: dict[str, int], over: threading.Event) -> None:
    while not over.wait(0.05):
        for name, pid in processes.items():
            peak[name] = max(peak[name], rss(pid))
