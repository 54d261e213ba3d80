"""One holder at a time, and who is gone is followed."""

import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gatefold.errors import Corrupt, LeaseLost, RunInProgress
from gatefold.storage import leases, objects
from gatefold.storage.leases import Lease, hold


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


def test_a_second_holder_is_refused_and_told_of_the_first(folder: str) -> None:
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
    "not renewed for long": lambda: {**ELSEWHERE, "renewed_at": 0.0},
    "gone from this machine": lambda: {"pid": ended_process()},
    "another process has its pid": lambda: {"process": "started long ago"},
}


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


def test_a_process_elsewhere_is_given_time(folder: str) -> None:
    with hold(folder):
        rewrite(folder, **ELSEWHERE, pid=ended_process())
        with pytest.raises(RunInProgress, match=r"on another .* try again in \d+ s"), hold(folder):
            pass


def test_workers_of_a_run_that_has_ended_write_nothing(folder: str) -> None:
    with hold(folder) as lease:
        lease.check()
    with pytest.raises(LeaseLost, match="has ended"):
        lease.check()


def test_a_holder_renews_and_stays(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEWED_EVERY_S", 0.02)
    with hold(folder) as lease:
        rewrite(folder, **ELSEWHERE, renewed_at=0.0)
        for _ in range(200):
            if json.loads(objects.read(f"{folder}/00000001.json"))["renewed_at"]:
                break
            threading.Event().wait(0.02)
        lease.check()
        with pytest.raises(RunInProgress), hold(folder):
            pass


def test_an_error_inside_lets_go_too(folder: str) -> None:
    with pytest.raises(ZeroDivisionError), hold(folder):
        _ = 1 / 0
    with hold(folder) as lease:
        assert lease.number == 2


def test_a_lease_that_cannot_be_read_is_told(folder: str) -> None:
    objects.put(f"{folder}/00000004.json", b"no lease")
    with pytest.raises(Corrupt, match="delete it if no run is under way"), hold(folder):
        pass
