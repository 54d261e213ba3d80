"""Jobs while all that runs them is killed: an endpoint in processes of its own, callers with keys, seeded kills."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
import yaml

from gatefold.errors import DatabaseUnavailable
from gatefold.workspace import Workspace
from serve.access.callers import Allowance
from serve.access.keys import KeyStore
from serve.jobs.database import Database, with_database
from serve.jobs.tables import jobs
from tests.postgres import PostgresServer
from tests.receiver import SECRET, Receiver, authority, receiving
from tests.served import free_port, publish_release, song

ROOT = Path(__file__).parents[1]
REPLICAS = {
    "api": "ServeReplica:gatefold:Api",
    "runner": "ServeReplica:gatefold:Runner",
    "generator": "ServeReplica:release-r1:CoverGenerator",
    "proxy": "ray::ProxyActor",
}
WITHIN_S = 240.0
LEASE_S = 3.0
SONGS, SEEDS, STEPS = 3, 4, 400
"""few songs and seeds, so that many jobs ask for the same pictures: what was disturbed is compared with what was not"""
JOBS_AT_ONCE = 2
QUOTA = 2
"""covers a month of the last caller"""


@dataclass(frozen=True)
class Order:
    """A job as a caller asks for it."""

    key: str
    """for idempotency"""
    song: int
    seed: int
    is_cancelled: bool
    webhook_url: str

    def request(self) -> dict[str, Any]:
        fields = {
            "seed": self.seed, "n": 1, "num_inference_steps": STEPS, "size": 32, "webhook_url": self.webhook_url,
        }  # fmt: skip
        if self.song == 0:
            return {"data": {name: str(value) for name, value in fields.items()}, "files": song()}
        return {"json": {"song_id": f"song/{self.song}", **fields}}


@dataclass
class Caller:
    """Asks for one job after the other, whatever does not answer meanwhile, under a key of its own."""

    number: int
    secret: str
    webhook_url: str
    accepted: dict[str, Order] = field(default_factory=dict)
    """by job_id"""
    cancelled: list[str] = field(default_factory=list)
    """job_ids that the endpoint said were cancelled"""
    refused: list[str] = field(default_factory=list)
    """codes of errors that are no reason to ask again"""

    def orders(self) -> Iterator[Order]:
        """Without end, the same each time; each fifth is cancelled."""
        draw = random.Random(self.number)
        for place in count():
            key, song, seed = f"{self.number}-{place}", draw.randrange(SONGS), draw.randrange(SEEDS)
            yield Order(key, song, seed, place % 5 == 2, self.webhook_url)

    def ask(self, url: str, least: int, over: threading.Event) -> None:
        """Asks for so many jobs at least, and until it is over."""
        with self.http(url) as http:
            for order in self.orders():
                asked = len(self.accepted) + len(self.refused)
                if asked >= least and over.is_set():
                    return
                answer = create(http, order)
                if answer.is_error:
                    self.refused.append(answer.json()["code"])
                    time.sleep(0.5)
                    continue
                job_id = answer.json()["job_id"]
                assert job_id not in self.accepted, answer.text
                self.accepted[job_id] = order
                if order.is_cancelled:
                    state = call(http, "DELETE", f"/v1/covers/{job_id}").json()["state"]
                    self.cancelled += [job_id] if state == "cancelled" else []

    def http(self, url: str) -> httpx.Client:
        return httpx.Client(base_url=url, timeout=30, headers={"Authorization": f"Bearer {self.secret}"})


def create(http: httpx.Client, order: Order) -> httpx.Response:
    """The answer to an order, asked for again while its caller has too many jobs at once, or no more fit: all the
    time of the kills, where none ends between them."""
    deadline = time.monotonic() + 10 * WITHIN_S
    while True:
        answer = call(http, "POST", "/v1/covers", headers={"Idempotency-Key": order.key}, **order.request())
        if answer.status_code != 429 or answer.json()["code"] == "quota_exceeded":
            return answer
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


def call(http: httpx.Client, method: str, path: str, **sent: Any) -> httpx.Response:
    """The answer, asked for again while nothing answers."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            answer = http.request(method, path, **sent)
            if answer.status_code < 500 and "/-/routes" not in answer.text:  # as a proxy says that has just started
                return answer
        except httpx.TransportError as error:
            answer = httpx.Response(599, text=repr(error))
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.2)


class ServedAlone:
    """`gatefold serve` on a Ray of its own, which can be killed whole and started again on the same port."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self.workspace = Workspace((folder / "workspace").as_uri())
        publish_release(self.workspace)
        (folder / "authority.pem").write_text(authority()[0])
        hooks = {"allowed_hosts": ["localhost"], "authorities": str(folder / "authority.pem"), "retry_first_s": 0.2}
        limits = {
            "steps_max": STEPS, "job_lease_s": LEASE_S, "job_attempts_max": 50, "jobs_poll_s": 0.2, "webhooks": hooks,
        }  # fmt: skip
        (folder / "settings.yaml").write_text(yaml.safe_dump({"serve": limits}))
        self._folder, self._port = folder, free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        ours = {
            "GATEFOLD_DATABASE_URL": database_url,
            "GATEFOLD_WEBHOOK_SECRET": SECRET,
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": "local",
        }
        self._environment = {**os.environ, **ours}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with (self._folder / "serve.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gatefold", "--config", "settings.yaml", "--workspace", self.workspace.uri,
                 "serve", "--port", str(self._port)],
                cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + WITHIN_S
        while not self._answers():
            assert self._process.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def _answers(self) -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/v1/health/ready", timeout=10).status_code == 200
        return False

    def said(self) -> str:
        return (self._folder / "serve.log").read_text()[-4000:]

    def kill(self) -> None:
        """Ray as a whole, and the command: every process, at once."""
        assert self._process is not None
        while left := [pid for pid, _ in self._processes()]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._process.poll()
            time.sleep(0.05)
        self._process.wait()

    def pids(self, name: str) -> list[int]:
        """Processes with that in their title."""
        return [pid for pid, title in self._processes() if name in title]

    def _processes(self) -> Iterable[tuple[int, str]]:
        assert self._process is not None
        command = ["ps", "-ww", "-eo", "sess=,pid=,stat=,args="]
        for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
            session, pid, state, title = line.split(maxsplit=3)
            if int(session) == self._process.pid and not state.startswith("Z"):
                yield int(pid), title


@dataclass
class Killer:
    """Kills one thing after another, each when it is there."""

    served: ServedAlone
    postgres: PostgresServer
    is_job_running: Callable[[], bool]
    seed: int
    killed: Counter[str] = field(default_factory=Counter)

    def kill_all(self, counts: dict[str, int], outage_s: float) -> None:
        """Args:
        counts: how often each is killed: those of REPLICAS, `ray`, `postgres`.
        outage_s: until PostgreSQL is there again.
        """
        draw, left = random.Random(self.seed), Counter(counts)
        while left.total():
            time.sleep(draw.uniform(0.3, 2.0))
            what = self._next(draw.sample(list(left.elements()), left.total()))
            if what == "ray":
                self.served.kill()
                self.served.start()
            elif what == "postgres":
                self.postgres.kill()
                time.sleep(outage_s)
                self.postgres.start()
            else:
                self._kill_replica(what)
            self.killed[what] += 1
            left[what] -= 1

    def _next(self, wanted: list[str]) -> str:
        """The first that is there to be killed; where none is, the first."""
        there = (what for what in wanted if what not in REPLICAS or self.served.pids(REPLICAS[what]))
        return next(there, wanted[0])

    def _wait_for_a_job(self) -> None:
        """Until one is running that the kill will interrupt, or for some time."""
        deadline = time.monotonic() + 30
        while not self.is_job_running() and time.monotonic() < deadline:
            time.sleep(0.02)

    def _kill_replica(self, what: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not (found := self.served.pids(REPLICAS[what])):
            assert time.monotonic() < deadline, f"{what} did not come back: {self.served.said()}"
            time.sleep(0.1)
        if what == "runner":  # found first: a job takes about a second, and so would it
            self._wait_for_a_job()
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@dataclass
class Outcome:
    """All that can be seen of the jobs when everything is over."""

    jobs: dict[str, dict[str, Any]]
    """as the endpoint lists them to their callers, by job_id"""
    states: dict[str, list[str]]
    """of their events, in their order"""
    pictures: dict[tuple[int, int], set[str]]
    """digests of the pictures that each song and seed gave"""
    messages: dict[str, set[str]]
    """ids of the webhooks that came, by job_id"""

    @property
    def interrupted(self) -> int:
        """Runs of jobs that did not come to their end; the job that is running may be hit time after time."""
        return sum(states.count("queued") - 1 for states in self.states.values())

    def most_at_once(self, job_ids: Iterable[str]) -> int:
        """How many of these had been accepted and had not ended at a time."""
        steps = []
        for job in (self.jobs[job_id] for job_id in job_ids):
            steps += [(job["created_at"], 1), (job["finished_at"], -1)]
        now = most = 0
        for _, step in sorted(steps):  # an end goes before a beginning of the same time
            now += step
            most = max(most, now)
        return most


class Trial:
    """`callers` ask for `least` jobs in all, and for more while things are killed."""

    def __init__(self, folder: Path, postgres: PostgresServer, receiver: Receiver, callers: int, least: int) -> None:
        self._database_url, self._receiver = postgres.new_database(), receiver
        self.served = ServedAlone(folder, self._database_url)
        self.killer = Killer(self.served, postgres, self._is_job_running, seed=7)
        self._each = -(-least // callers)
        self.callers = []
        for number in range(callers):
            allowed = Allowance(jobs_at_once=JOBS_AT_ONCE, covers_per_month=QUOTA if number == callers - 1 else None)
            secret = self._new_key(f"caller {number}", allowed)
            self.callers.append(Caller(number, secret, receiver.url("localhost")))

    def _is_job_running(self) -> bool:
        """By a runner that lives: it has renewed its claim."""

        async def count_jobs(database: Database) -> int:
            async with database.read() as connection:
                held = jobs.c.state == "running", jobs.c.lease_until > await database.now(connection) + LEASE_S / 2
                return await connection.scalar(sa.select(sa.func.count()).select_from(jobs).where(*held)) or 0

        with suppress(DatabaseUnavailable):
            return asyncio.run(with_database(self._database_url, count_jobs)) > 0
        return False

    def _new_key(self, name: str, allowed: Allowance) -> str:
        async def create_key(database: Database) -> str:
            return (await KeyStore(database).create(name, ["search", "generate"], allowed))[1]

        return asyncio.run(with_database(self._database_url, create_key))

    def run(self, counts: dict[str, int], outage_s: float) -> None:
        """Returns when all is killed, and all orders are answered."""
        self.served.start()
        over = threading.Event()
        with ThreadPoolExecutor(len(self.callers)) as threads:
            asking = [threads.submit(caller.ask, self.served.url, self._each, over) for caller in self.callers]
            try:
                self.killer.kill_all(counts, outage_s)
            finally:
                over.set()
            for task in asking:
                task.result()

    def outcome(self) -> Outcome:
        """Waits until every accepted job has ended, and its webhook has come."""
        found = Outcome({}, {}, defaultdict(set), defaultdict(set))
        for caller in self.callers:
            with caller.http(self.served.url) as http:
                for job_id, order in caller.accepted.items():
                    job = self._ended(http, job_id)
                    found.states[job_id] = self._states(http, job_id)
                    for image in job["images"]:
                        picture = call(http, "GET", image["url"])
                        found.pictures[order.song, order.seed].add(sha256(picture.content).hexdigest())
                found.jobs |= self._listed(http)
        deadline = time.monotonic() + WITHIN_S
        while set(found.messages) != set(found.jobs) and time.monotonic() < deadline:
            time.sleep(0.2)
            for one in list(self._receiver.received):
                found.messages[json.loads(one.body)["data"]["job_id"]].add(one.headers["webhook-id"])
        return found

    def _ended(self, http: httpx.Client, job_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN_S
        while True:
            job: dict[str, Any] = call(http, "GET", f"/v1/covers/{job_id}").json()
            if job["state"] not in ("queued", "running"):
                return job
            assert time.monotonic() < deadline, job
            time.sleep(0.1)

    def _states(self, http: httpx.Client, job_id: str) -> list[str]:
        text = call(http, "GET", f"/v1/covers/{job_id}/events").text
        return [json.loads(line[6:])["state"] for line in text.splitlines() if line.startswith("data: ")]

    def _listed(self, http: httpx.Client) -> dict[str, dict[str, Any]]:
        jobs: dict[str, dict[str, Any]] = {}
        after = None
        while True:
            page = call(http, "GET", "/v1/covers", params={"limit": 50} | ({"after": after} if after else {})).json()
            jobs |= {job["job_id"]: job for job in page["jobs"]}
            after = page["after"]
            if after is None:
                return jobs


@contextmanager
def trial(folder: Path, callers: int, least: int) -> Iterator[Trial]:
    """All of it, and nothing of it left afterwards."""
    postgres = PostgresServer()
    try:
        postgres.start()
        with receiving(Receiver(answers=[503, 204])) as receiver:
            made = Trial(folder, postgres, receiver, callers, least)
            try:
                yield made
            finally:
                made.served.kill()
    finally:
        postgres.remove()
