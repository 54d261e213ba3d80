"""The doctor: a healthy machine has no fault, and each fault is found, has its remedy, and hides no other."""

import json
import os
import platform
import re
import resource
import shutil
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from gatefold.audio import codec_check
from gatefold.audio.decoding import FORMATS
from gatefold.cli import doctor
from gatefold.cli.doctor import Finding
from gatefold.errors import GatefoldError, ObjectNotFound, StorageDenied, StorageUnavailable
from gatefold.storage import leases, objects
from gatefold.storage.uris import ObjectInfo
from gatefold.workspace import Workspace


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return (tmp_path / "deep" / "workspace").as_uri()


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "GATEFOLD_API_KEYS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def states(findings: list[Finding]) -> dict[str, str]:
    return {one.name: one.state for one in findings}


def faults(findings: list[Finding]) -> list[Finding]:
    found = [one for one in findings if one.state != "ok"]
    assert all(one.remedy for one in found)
    return found


@pytest.mark.usefixtures("unset")
def test_a_healthy_machine_has_no_fault(uri: str, tmp_path: Path) -> None:
    reported: list[tuple[int, int]] = []
    findings = doctor.examine(Workspace(uri), lambda done, total: reported.append((done, total)))
    assert [one for one in findings if one.state == "fault"] == []
    assert set(states(findings)) >= {"versions", "torch", "codecs", "gpu", "store", "clock", "disk", "ray", "api keys"}
    assert reported == [(number, 11) for number in range(11)]
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_a_fault_of_its_own() -> None:
    def broken() -> list[Finding]:
        raise ImportError("libfoo.so.1: cannot open shared object file")

    (found,) = faults(doctor.attempt("torch", broken))
    assert (found.name, found.state) == ("torch", "fault")
    assert "ImportError: libfoo.so.1" in found.detail


# ---- what is installed ----------------------------------------------------------------------------------------------


def test_versions_are_held_against_their_ranges() -> None:
    python = platform.python_version()
    wanted = [f"python>={python}", "numpy>=1", "pyarrow<1", "no-such-package>=2", 'nothing>=1; extra == "gpu"']
    (found,) = faults(doctor.judge_versions(wanted))
    assert found.state == "fault"
    assert found.detail.startswith("pyarrow is ")
    assert found.detail.endswith(", wanted <1; no-such-package is missing, wanted >=2")
    assert faults(doctor.judge_versions(["python<3"]))[0].detail == f"python is {python}, wanted <3"
    assert faults(doctor.judge_versions(wanted[:2])) == []


def test_every_format_we_claim_to_decode_is_tried() -> None:
    assert set(codec_check.WRITERS) == set(re.findall(r"\w+", FORMATS)) - {"ogg", "or"}


def test_a_format_that_cannot_be_decoded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codec_check.WRITERS, "opus", lambda: b"OggS but no more")
    (found,) = faults(doctor.check_codecs())
    assert found.detail.startswith("opus: the tone: ")


# ---- the store ------------------------------------------------------------------------------------------------------


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A file where the workspace's folder should be, which stops even root."""
    path = tmp_path / "file"
    path.write_text("in the way")
    return path / "workspace"


def test_a_workspace_that_cannot_be_written_is_a_fault_with_its_remedy(unwritable: Path) -> None:
    (found,) = faults(doctor.check_store(unwritable.as_uri()))
    assert (found.name, found.state) == ("store", "fault")
    assert found.detail.startswith("cannot write: ")
    assert "--workspace" in found.remedy


def test_a_store_that_ignores_put_if_absent_is_a_fault(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_anyway(uri: str, data: bytes) -> bool:
        objects.put(uri, data)
        return True

    monkeypatch.setattr(objects, "put_if_absent", put_anyway)
    (found,) = faults(doctor.check_store(uri))
    assert "two runs could not be distinguished" in found.detail
    assert "conditional writes" in found.remedy


def test_a_store_that_ignores_put_if_unchanged_is_a_fault(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def put_anyway(uri: str, data: bytes, _: str) -> bool:
        objects.put(uri, data)
        return True

    monkeypatch.setattr(objects, "put_if_unchanged", put_anyway)
    (found,) = faults(doctor.check_store(uri))
    assert "one of two activations could be lost" in found.detail
    assert "conditional writes" in found.remedy


def test_each_thing_a_store_does_wrong_is_reported(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(uri: str) -> Iterator[ObjectInfo]:
        raise StorageDenied(f"'{uri}': AccessDenied")

    monkeypatch.setattr(objects, "list_objects", denied)
    monkeypatch.setattr(objects, "exists", lambda _: True)
    details = [one.detail.partition(":")[0] for one in faults(doctor.check_store(uri))]
    assert details == ["cannot list", "cannot delete"]


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (StorageDenied("'s3://b/w/x': ExpiredToken"), "check the credentials"),
        (StorageUnavailable("'s3://b/w/x': no answer"), "check AWS_ENDPOINT_URL"),
        (ObjectNotFound("'s3://b/w/x': NoSuchBucket"), "make the bucket"),
    ],
)
def test_the_remedy_suits_what_the_store_says(
    monkeypatch: pytest.MonkeyPatch, error: GatefoldError, remedy: str
) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(objects, "put", refuse)
    monkeypatch.setattr(objects, "delete", refuse)
    (found,) = faults(doctor.check_store("s3://b/w"))
    assert found.detail == f"cannot write: {error.message}"
    assert remedy in found.remedy


def test_nothing_is_left_in_a_store_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kept").write_text("was here")
    monkeypatch.setattr(objects, "read", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        doctor.check_store(tmp_path.as_uri())
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("ahead_s", "state", "says"),
    [(0, "ok", "as the store's"), (-20, "ok", "as"), (90, "warning", "behind"), (-4_000, "fault", "ahead of")],
)
def test_clocks_far_apart_are_reported(monkeypatch: pytest.MonkeyPatch, ahead_s: int, state: str, says: str) -> None:
    now = datetime(2026, 1, 1, 12, 0, 0, 600_000, UTC)
    modified = (now + timedelta(seconds=ahead_s)).replace(microsecond=0)
    monkeypatch.setattr(objects, "stat", lambda uri: ObjectInfo(uri, 1, modified, "e"))
    (found,) = doctor.check_clock("s3://bucket/key", (now.timestamp(), now.timestamp() + 0.1))
    assert found.state == state
    assert says in found.detail
    assert bool(found.remedy) == (state != "ok")


# ---- the machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("gib", "state"), [(50, "ok"), (9.9, "warning"), (0.9, "fault")])
def test_a_disk_that_is_nearly_full_is_reported(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gib: float, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=int(gib * 2**30)))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "ray"))
    rays, ours = doctor.check_disks(uri)
    assert (rays.state, ours.state) == (state, state)
    assert str(tmp_path / "ray") in rays.detail
    if state != "ok":
        assert "RAY_TMPDIR" in rays.remedy
        assert "--workspace" in ours.remedy
    assert len(doctor.check_disks("s3://bucket/workspace")) == 1


@pytest.mark.parametrize(("kib", "state"), [(8_000_000, "ok"), (1_500_000, "warning"), (300_000, "fault")])
def test_memory_that_is_nearly_full_is_reported(tmp_path: Path, kib: int, state: str) -> None:
    meminfo = tmp_path / "meminfo"
    lines = ["MemTotal:       16000000 kB", "MemFree: 1 kB", f"MemAvailable:   {kib} kB", "HugePages_Total:       0"]
    meminfo.write_text("\n".join(lines) + "\n")
    assert states(doctor.check_memory(meminfo)) == {"memory": state}
    assert doctor.check_memory(tmp_path / "nowhere") == []


@pytest.mark.parametrize(("soft", "state"), [(1024, "warning"), (4096, "ok"), (resource.RLIM_INFINITY, "ok")])
def test_few_open_files_are_reported(monkeypatch: pytest.MonkeyPatch, soft: int, state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    assert states(doctor.check_open_files()) == {"open files": state}


# ---- pipelines and serve ---------------------------------------------------------------------------------------------


def test_a_ray_address_where_nobody_listens_is_a_fault(listener: int, tmp_path: Path) -> None:
    def check(address: str) -> str:
        return doctor.check_ray({"RAY_ADDRESS": address, "RAY_TMPDIR": str(tmp_path)})[0].state

    with socket.create_server(("127.0.0.1", 0)) as gone:
        free = gone.getsockname()[1]
    assert [check(f"127.0.0.1:{port}") for port in (listener, free)] == ["ok", "fault"]
    assert [check(f"ray://127.0.0.1:{port}") for port in (listener, free)] == ["ok", "fault"]
    assert check("auto") == "fault"
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{listener}\n")
    assert check("auto") == "ok"
    assert [doctor.check_ray(unset)[0].state for unset in ({}, {"RAY_ADDRESS": "local"})] == ["ok", "ok"]


def test_keys_that_are_no_hashes_are_a_fault_and_are_not_repeated() -> None:
    hashed = "a" * 64
    assert doctor.check_keys({})[0].state == "ok"
    (good,) = doctor.check_keys({"GATEFOLD_API_KEYS": f"{hashed},{'B' * 64}"})
    assert good.state == "ok"
    assert hashed not in good.detail
    (bad,) = faults(doctor.check_keys({"GATEFOLD_API_KEYS": f"{hashed},my-secret-key"}))
    assert "entry 2" in bad.detail
    assert "my-secret-key" not in bad.detail + bad.remedy


def test_the_environment_is_the_one_of_this_process(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setenv("GATEFOLD_API_KEYS", "no hash")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    found = states(doctor.examine(Workspace(uri), lambda *_: None))
    assert (found["api keys"], found["ray"]) == ("fault", "fault")
    assert os.environ["RAY_ADDRESS"] == "127.0.0.1:1"


def test_an_endpoint_without_keys_is_a_warning_where_a_cluster_would_run_it(listener: int, tmp_path: Path) -> None:
    alone = {"RAY_TMPDIR": str(tmp_path)}
    assert doctor.check_keys(alone)[0].state == "ok"
    joined = alone | {"RAY_ADDRESS": f"127.0.0.1:{listener}"}
    (open_one,) = faults(doctor.check_keys(joined))
    assert open_one.state == "warning"
    assert "needs --open; it would run on the Ray cluster at" in open_one.detail
    assert doctor.check_keys(joined | {"GATEFOLD_API_KEYS": "a" * 64})[0].state == "ok"
    nowhere = alone | {"RAY_ADDRESS": "auto"}
    assert doctor.check_keys(nowhere)[0].state == "ok"
    assert doctor.check_ray(nowhere)[0].state == "fault"


def test_the_ray_that_commands_use_is_named(listener: int, tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{listener}")
    (joined,) = doctor.check_ray({"RAY_TMPDIR": str(tmp_path)})
    assert (joined.state, f"the Ray cluster at 127.0.0.1:{listener}" in joined.detail) == ("ok", True)
    (own,) = doctor.check_ray({"RAY_TMPDIR": str(tmp_path), "RAY_ADDRESS": "local"})
    assert own.detail == "commands run on a Ray of this command's own (RAY_ADDRESS is 'local')"


def test_leases_of_a_store_that_does_not_answer_are_left_to_the_check_of_the_store(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> list[ObjectInfo]:
        raise StorageDenied("'s3://b': no credentials")

    monkeypatch.setattr(objects, "list_objects", refuse)
    (found,) = faults(doctor.attempt("leases", lambda: doctor.check_leases(Workspace(uri))))
    assert (found.state, found.remedy) == ("warning", "do what is said of the store")


def test_a_lease_that_is_held_is_reported_and_one_that_clocks_disagree_on_is_a_warning(uri: str) -> None:
    workspace = Workspace(uri)
    assert states(doctor.check_leases(workspace)) == {"leases": "ok"}
    folder = objects.join(workspace.runs, "spectrograms", "lease")
    with leases.hold(folder):
        (held,) = doctor.check_leases(workspace)
        assert held.state == "ok"
        assert f"'runs/spectrograms/lease/00000001.json' is held by process {os.getpid()}" in held.detail
    assert "no run is under way" in doctor.check_leases(workspace)[0].detail
    lease = objects.join(folder, "00000001.json")
    for ahead_s, said in ((120, "120 s ahead of this machine's"), (-3_600, "was killed, or its clock is behind")):
        holder = {**json.loads(objects.read(lease)), "released": False, "renewed_at": time.time() + ahead_s}
        objects.put(lease, json.dumps(holder).encode())
        (found,) = faults(doctor.check_leases(workspace))
        assert found.state == "warning"
        assert said in found.detail
