"""One holder at a time, and who is gone is followed."""

import json
import os
import pickle
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatefold.errors import Corrupt, LeaseLost, RunInProgress, StorageDenied, StorageUnavailable
from gatefold.progress import OnProgress, silent
from gatefold.storage import leases, objects
from gatefold.storage.leases import Lease, hold
from pipelines.report import while_held


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return objects.resolve(str(tmp_path / "lease"))


def numbers(folder: str) -> list[str]:
    return [objects.name(info.uri) for info in objects.list_objects(folder)]


def rewrite(folder: str, **changes: Any) -> None:
    """Makes the one object there say something else."""
    (info,) = objects.list_objects(folder)
    objects.put(info.uri, json.dumps(json.loads(objects.read(info.uri)) | changes).encode())


def ended_process() -> int:
    """A pid that was somebody's a moment ago."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_holder_is_refused_with_the_name_of_the_first(folder: str) -> None:
    with hold(folder):
        with (
            pytest.raises(RunInProgress, match=rf"process {os.getpid()} on .* since .* UTC; wait for it"),
            hold(folder),
        ):
            pass
        assert numbers(folder) == ["00000001.json"]


def test_what_was_let_go_of_is_taken_at_once_under_the_next_number(folder: str) -> None:
    for expected in (1, 2, 3):
        with hold(folder) as lease:
            lease.check()
            assert (lease.number, numbers(folder)) == (expected, [f"{expected:08}.json"])


def test_of_many_who_try_at_once_one_alone_holds_it(folder: str) -> None:
    start, leave = threading.Barrier(8), threading.Event()
    held: list[int] = []
    refused: list[str] = []

    def attempt() -> None:
        start.wait()
        try:
            with hold(folder) as lease:
                held.append(lease.number)
                leave.wait(20)
        except RunInProgress as error:
            refused.append(error.message)
            if len(refused) == 7:
                leave.set()

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (held, len(refused)) == ([1], 7)


ELSEWHERE = {"machine": "another", "host": "another"}
GONE: dict[str, Callable[[], dict[str, Any]]] = {
    "not renewed for long": lambda: ELSEWHERE,
    "gone from this machine": lambda: {"pid": ended_process()},
    "another process has its pid": lambda: {"process": "started long ago"},
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a lease lasts; it is looked at all the time."""
    monkeypatch.setattr(leases, "LEASE_TTL_S", 0.3)
    monkeypatch.setattr(leases, "POLL_EVERY_S", 0.01)
    return leases.LEASE_TTL_S


def elsewhere(folder: str, **changes: Any) -> None:
    """Puts the object of a holder on another machine."""
    with hold(folder):
        rewrite(folder, **ELSEWHERE, **changes)
        (info,) = objects.list_objects(folder)
        said = objects.read(info.uri)
    objects.put(info.uri, said)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("gone", GONE.values(), ids=GONE)
def test_who_is_gone_is_followed_and_may_write_no_more(folder: str, gone: Callable[[], dict[str, Any]]) -> None:
    with hold(folder) as old:
        rewrite(folder, **gone())
        worker: Lease = pickle.loads(pickle.dumps(old))  # noqa: S301 - as Ray sends it to its workers
        worker.check()
        with hold(folder) as new:
            assert new.number == 2
            for lost in (old, worker):
                with pytest.raises(LeaseLost, match="taken over"):
                    lost.check()
            new.check()
    assert numbers(folder) == ["00000002.json"], "who lost it has written over it"


@pytest.mark.parametrize("behind_s", [0.0, 3600.0, -3600.0])
def test_a_process_elsewhere_is_followed_when_it_has_not_renewed_for_long_whatever_its_clock_says(
    folder: str, short: float, behind_s: float
) -> None:
    elsewhere(folder, renewed_at=time.time() - behind_s)
    began = time.monotonic()
    with hold(folder) as lease:
        assert time.monotonic() - began >= short
        assert lease.number == 2


@pytest.mark.parametrize("behind_s", [0.0, 3600.0, -3600.0])
def test_a_process_elsewhere_that_renews_is_not_followed_whatever_its_clock_says(
    folder: str, monkeypatch: pytest.MonkeyPatch, behind_s: float
) -> None:
    monkeypatch.setattr(leases, "POLL_EVERY_S", 0.01)
    elsewhere(folder, renewed_at=time.time() - behind_s)
    sleep = time.sleep

    def renew_meanwhile(seconds: float) -> None:
        rewrite(folder, renewals=1)
        sleep(seconds)

    monkeypatch.setattr(time, "sleep", renew_meanwhile)
    with pytest.raises(RunInProgress, match=r"process \d+ on another works on it since .*; wait for it or stop it"):
        hold(folder).__enter__()
    assert numbers(folder) == ["00000001.json"]


@pytest.mark.usefixtures("short")
def test_what_is_let_go_of_elsewhere_is_taken_then(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LEASE_TTL_S", 60.0)
    elsewhere(folder)
    monkeypatch.setattr(time, "sleep", lambda _: rewrite(folder, released=True))
    with hold(folder) as lease:
        assert lease.number == 2


class Refusing:
    """A store that refuses puts into a folder while `error` is set; what else is put there is counted."""

    def __init__(self, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self._put = folder, objects.put
        self.error: Exception | None = None
        self.puts = self.refused = 0
        monkeypatch.setattr(objects, "put", self.put)
        monkeypatch.setattr(leases, "RENEW_EVERY_S", 0.01)

    def put(self, uri: str, data: bytes) -> None:
        if self.error is not None and uri.startswith(self._folder):
            self.refused += 1
            raise self.error
        self._put(uri, data)
        self.puts += 1

    def wait(self, name: str, more: int) -> None:
        wanted = getattr(self, name) + more
        for _ in range(2000):
            if getattr(self, name) >= wanted:
                return
            threading.Event().wait(0.01)
        raise AssertionError(f"'{name}' is {getattr(self, name)} after 20 s, {wanted} was awaited")


EXPIRED = StorageDenied("'s3://b/w': ExpiredToken; check AWS_SESSION_TOKEN (renew it if it has expired)")


@pytest.mark.parametrize("error", [EXPIRED, RuntimeError("a fault of our own")], ids=["denied", "a fault"])
def test_work_whose_lease_cannot_be_renewed_for_long_is_stopped_with_the_reason(
    folder: str, short: float, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    store = Refusing(folder, monkeypatch)

    def work(on_progress: OnProgress) -> None:
        store.error = error
        for done in range(2000):
            on_progress(done, 2000)
            threading.Event().wait(0.01)

    began = time.monotonic()
    with pytest.raises(LeaseLost, match=rf"could not be renewed for .*{re.escape(str(error))}"), hold(folder) as lease:
        work(while_held(lease, silent))
    assert time.monotonic() - began >= short, "it was stopped before it had to be"


def test_a_store_that_refuses_for_a_while_costs_no_lease(
    folder: str, short: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Refusing(folder, monkeypatch)
    monkeypatch.setattr(leases, "LEASE_TTL_S", 60.0)
    with hold(folder) as lease:
        store.error = EXPIRED
        store.wait("refused", 3)
        store.error = None
        store.wait("puts", 3)
        monkeypatch.setattr(leases, "LEASE_TTL_S", short)
        store.error = StorageUnavailable("'s3://b/w': no answer")
        store.wait("refused", 40)
        store.error = None
        store.wait("puts", 3)
        lease.check()


def test_who_is_followed_because_it_could_not_renew_says_why(
    folder: str, short: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Refusing(folder, monkeypatch)
    with hold(folder) as lease:
        store.error = StorageUnavailable("'s3://b/w': no answer")
        store.wait("refused", 1)
        threading.Event().wait(2 * short)
        objects.put_if_absent(f"{folder}/00000002.json", objects.read(f"{folder}/00000001.json"))
        with pytest.raises(LeaseLost, match=r"taken over while .* \('s3://b/w': no answer\); the other run goes on"):
            lease.check()


def test_workers_of_a_run_that_has_ended_write_nothing(folder: str) -> None:
    with hold(folder) as lease:
        lease.check()
    with pytest.raises(LeaseLost, match="has ended"):
        lease.check()


def test_a_holder_renews_and_stays(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Refusing(folder, monkeypatch)
    with hold(folder) as lease:
        store.wait("puts", 3)
        assert json.loads(objects.read(f"{folder}/00000001.json"))["renewals"] >= 3
        lease.check()
        with pytest.raises(RunInProgress), hold(folder):
            pass


def test_a_lease_of_an_earlier_gatefold_is_read(folder: str) -> None:
    with hold(folder):
        (info,) = objects.list_objects(folder)
        said = json.loads(objects.read(info.uri))
        del said["renewals"]
        objects.put(info.uri, json.dumps(said).encode())
        with pytest.raises(RunInProgress), hold(folder):
            pass


def test_an_error_inside_lets_go_too(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), hold(folder):
        _ = 1 / 0
    with hold(folder) as lease:
        assert lease.number == 2


def test_a_lease_that_cannot_be_read_is_reported(folder: str) -> None:
    objects.put(f"{folder}/00000004.json", b"no lease")
    with pytest.raises(Corrupt, match="delete it if no run is under way"), hold(folder):
        pass
