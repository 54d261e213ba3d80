"""Releases: published once, activated, rolled back."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from gatefold.errors import BundleCorrupt, BundleNotFound, InputError, RunInProgress
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(objects.resolve(str(tmp_path)))


def release(version: str, day: int = 1) -> Release:
    part = ReleasePart(uri=f"encoders/{version}", version=version, fingerprint="ab" * 8)
    return Release(version=version, created_at=f"2026-01-{day:02}T00:00:00Z", encoder=part, index=part, generator=part)


def test_without_an_active_release_the_verb_to_run_is_named(workspace: Workspace) -> None:
    releases.publish(workspace, release("v1"))
    with pytest.raises(BundleNotFound, match="`gatefold release` of models that are there"):
        releases.current(workspace)


def test_activating_and_rolling_back_walk_the_same_way(workspace: Workspace) -> None:
    for version in ("v1", "v2", "v3"):
        releases.publish(workspace, release(version))
        assert releases.activate(workspace, version) == release(version)
    releases.activate(workspace, "v3")
    assert releases.current(workspace).version == "v3"
    assert releases.rollback(workspace).version == "v2"
    assert releases.current(workspace).version == "v2"
    assert releases.rollback(workspace).version == "v1"
    with pytest.raises(BundleNotFound, match="no release to go back to"):
        releases.rollback(workspace)
    assert releases.current(workspace).version == "v1"


def test_a_release_never_changes(workspace: Workspace) -> None:
    releases.publish(workspace, release("v1"))
    releases.publish(workspace, release("v1"))
    with pytest.raises(InputError, match="another release has version 'v1'"):
        releases.publish(workspace, release("v1", day=2))
    assert releases.get(workspace, "v1") == release("v1")


def test_releases_are_listed_from_the_oldest_on(workspace: Workspace) -> None:
    for version, day in (("a", 3), ("b", 1), ("c", 2)):
        releases.publish(workspace, release(version, day))
    releases.activate(workspace, "a")
    assert [found.version for found in releases.list_releases(workspace)] == ["b", "c", "a"]


def test_an_unknown_release_cannot_be_activated(workspace: Workspace) -> None:
    with pytest.raises(BundleNotFound, match="no release 'v9'"):
        releases.activate(workspace, "v9")
    with pytest.raises(InputError, match=r"'\.\./x' cannot be used"):
        releases.activate(workspace, "../x")


def test_damaged_files_are_reported_as_such(workspace: Workspace) -> None:
    objects.put(f"{workspace.releases}/v1.json", b"{}")
    with pytest.raises(BundleCorrupt, match=r"v1\.json' cannot be read"):
        releases.get(workspace, "v1")
    objects.put(f"{workspace.releases}/current", b"v1")
    with pytest.raises(BundleCorrupt, match="current' cannot be read"):
        releases.current(workspace)


Change = Callable[[Workspace], Release]


def at_once(workspace: Workspace, changes: list[Change], monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """What each of these raised, all of which had read the history before any of them wrote."""
    meeting, read = threading.Barrier(len(changes)), releases._read_history
    met: set[int] = set()

    def read_and_wait(workspace: Workspace) -> releases._History:
        history = read(workspace)
        if threading.get_ident() not in met:  # who reads again goes on alone
            met.add(threading.get_ident())
            meeting.wait(20)
        return history

    monkeypatch.setattr(releases, "_read_history", read_and_wait)
    with ThreadPoolExecutor(len(changes)) as pool:
        errors = [run.exception() for run in [pool.submit(change, workspace) for change in changes]]
    monkeypatch.setattr(releases, "_read_history", read)
    return errors


def test_of_two_activations_at_once_none_is_lost(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("v1", "v2", "v3"):
        releases.publish(workspace, release(version))
    for before in ([], ["v1"]):
        objects.delete(f"{workspace.releases}/current")
        for version in before:
            releases.activate(workspace, version)
        both: list[Change] = [partial(releases.activate, version=version) for version in ("v2", "v3")]
        assert at_once(workspace, both, monkeypatch) == [None, None]
        activated = json.loads(objects.read(f"{workspace.releases}/current"))["activated"]
        assert activated in ([*before, "v2", "v3"], [*before, "v3", "v2"])


def test_of_two_rollbacks_at_once_one_is_refused_and_one_release_is_rolled_back(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2", "v3"):
        releases.publish(workspace, release(version))
        releases.activate(workspace, version)
    errors = at_once(workspace, [releases.rollback, releases.rollback], monkeypatch)
    assert [type(error) for error in errors if error is not None] == [RunInProgress]
    assert "release 'v3' was to be rolled back" in str(errors)
    assert releases.current(workspace).version == "v2"
