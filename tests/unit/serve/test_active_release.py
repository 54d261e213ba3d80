"""The active release: a request and a job keep to the release they began with, and who is still in use is known."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatefold.errors import IndexNotReady
from gatefold.storage import objects
from gatefold.workspace import Workspace
from serve.active_release import ActiveRelease
from serve.optout_filter import OptOuts

SONG = {"song": ("x.mp3", b"12345", "audio/mpeg")}


def change(e: Any, version: str) -> None:
    """Others of the same kind come on duty, under another version."""
    with e.active.current() as services:
        e.active.switch_to(replace(services, release=replace(services.release, version=version)))


def test_before_any_release_there_is_nothing_to_answer_with(tmp_path: Path) -> None:
    active = ActiveRelease(OptOuts(Workspace(objects.resolve(str(tmp_path)))))
    with pytest.raises(IndexNotReady, match="no release is loaded yet"), active.current():
        pass
    assert active.in_use() == []


def test_a_request_keeps_to_the_stages_it_began_with(endpoint: Callable[..., Any]) -> None:
    active = endpoint().active
    with active.current() as begun:
        active.switch_to(replace(begun, release=replace(begun.release, version="r2")))
        assert begun.release.version == "r1"
        assert active.in_use() == ["r2", "r1"]
        with active.current() as next_one:
            assert next_one.release.version == "r2"
    assert active.in_use() == ["r2"]


def until_running(e: Any, job: dict[str, Any]) -> None:
    deadline = time.monotonic() + 10
    while e.client.get(f"/v1/covers/{job['job_id']}").json()["state"] != "running":
        assert time.monotonic() < deadline


def test_a_job_is_finished_by_the_release_that_began_it(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    first = e.client.post("/v1/covers", files=SONG).json()
    until_running(e, first)
    change(e, "r2")
    assert e.active.in_use() == ["r2", "r1"]
    second = e.client.post("/v1/covers", files=SONG).json()
    e.generator.hold = False
    deadline = time.monotonic() + 5
    for job in (first, second):
        while e.client.get(f"/v1/covers/{job['job_id']}").json()["state"] != "succeeded":
            assert time.monotonic() < deadline
    assert e.active.in_use() == ["r2"]
    for job, release in ((first, "r1"), (second, "r2")):
        view = e.client.get(f"/v1/covers/{job['job_id']}", headers={"Prefer": "wait=5"}).json()
        assert view["release"] == release
        assert e.client.get(f"/v1/covers/{job['job_id']}/manifest.json").json()["release"] == release
    assert e.client.get(f"/v1/covers/{first['job_id']}").json()["state"] == "succeeded"


def test_a_job_that_is_cancelled_or_fails_frees_its_release(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    job = e.client.post("/v1/covers", files=SONG).json()
    until_running(e, job)
    change(e, "r2")
    e.client.delete(f"/v1/covers/{job['job_id']}")
    deadline = time.monotonic() + 10
    while e.active.in_use() != ["r2"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
