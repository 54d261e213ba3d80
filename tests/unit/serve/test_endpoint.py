"""What the endpoint makes of what its workspace has activated, and reports of it."""

from pathlib import Path

import pytest
from ray.exceptions import RayActorError

from gatefold.errors import GatefoldError
from gatefold.storage import objects
from gatefold.storage.contents import releases
from gatefold.storage.contents.releases import Release, ReleasePart
from gatefold.workspace import Workspace
from serve.endpoint import Endpoint, agreed, reason

CONFIG = {"applications": [{"name": "gatefold"}, {"name": "release"}]}


class Follower(Endpoint):
    """Serves any release but one that is `spoilt`."""

    def __init__(self, workspace: Workspace, pinned: str | None = None) -> None:
        super().__init__(CONFIG, workspace, pinned, "http://here")
        self.served: list[str] = []
        self.spoilt: set[str] = set()

    def _serve(self, version: str) -> None:
        self.served.append(version)
        if version in self.spoilt:
            raise GatefoldError("it did not start: index 'i2' is cut short")
        self._serving = version


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    made = Workspace(objects.resolve(str(tmp_path)))
    part = ReleasePart(uri="encoders/v", version="v", fingerprint="f")
    for version in ("r1", "r2", "r3"):
        made_of = {"encoder": part, "index": part, "generator": part}
        releases.publish(made, Release(version=version, created_at="2026-01-01T00:00:00Z", **made_of))
    releases.activate(made, "r1")
    return made


def test_what_is_activated_and_rolled_back_is_served_and_reported_once(workspace: Workspace) -> None:
    endpoint = Follower(workspace)
    assert endpoint.follow() == "release r1 serves now"
    assert endpoint.follow() is None
    releases.activate(workspace, "r2")
    assert [endpoint.follow(), endpoint.follow()] == ["release r2 serves now", None]
    releases.rollback(workspace)
    assert [endpoint.follow(), endpoint.follow()] == ["release r1 serves now", None]
    assert endpoint.served == ["r1", "r2", "r1"]


def test_a_release_that_does_not_start_is_reported_and_tried_once(workspace: Workspace) -> None:
    endpoint = Follower(workspace)
    endpoint.follow()
    endpoint.spoilt = {"r2"}
    releases.activate(workspace, "r2")
    said = endpoint.follow()
    assert said == "release r2 cannot serve: it did not start: index 'i2' is cut short; release r1 goes on"
    assert endpoint.follow() is None
    assert endpoint.served == ["r1", "r2"]
    releases.activate(workspace, "r3")
    assert endpoint.follow() == "release r3 serves now"


def test_a_release_that_was_mended_is_tried_again_after_another(workspace: Workspace) -> None:
    endpoint = Follower(workspace)
    endpoint.follow()
    endpoint.spoilt = {"r2"}
    releases.activate(workspace, "r2")
    endpoint.follow()
    releases.rollback(workspace)
    assert endpoint.follow() == "release r1 serves now"
    endpoint.spoilt = set()
    releases.activate(workspace, "r2")
    assert endpoint.follow() == "release r2 serves now"


def test_a_workspace_that_cannot_be_read_leaves_the_endpoint_as_it_is(workspace: Workspace) -> None:
    endpoint = Follower(workspace)
    endpoint.follow()
    objects.put(f"{workspace.releases}/current", b"nonsense")
    said = endpoint.follow()
    assert said is not None
    assert said.endswith("; release r1 goes on")
    assert endpoint.follow() is None
    releases_file = b'{"activated": ["r1", "r9"]}'
    objects.put(f"{workspace.releases}/current", releases_file)
    assert "there is no release 'r9'" in str(endpoint.follow())
    assert endpoint.served == ["r1"]


def test_a_serve_that_does_not_answer_for_a_while_ends_nothing(workspace: Workspace) -> None:
    class Silent(Follower):
        silent = True

        def _serve(self, version: str) -> None:
            if self.silent:
                raise RayActorError
            super()._serve(version)

    endpoint = Silent(workspace)
    assert "does not answer at present" in str(endpoint.follow())
    endpoint.silent = False
    assert endpoint.follow() == "release r1 serves now"


def test_a_release_that_the_file_names_is_served_whatever_is_activated(workspace: Workspace) -> None:
    endpoint = Follower(workspace, pinned="r3")
    endpoint.follow()
    releases.activate(workspace, "r2")
    assert endpoint.follow() is None
    assert endpoint.served == ["r3"]


def test_the_reason_of_a_failure_is_the_error_without_its_traceback() -> None:
    traceback = "Failed 3 times.\nTraceback:\n  File x\ngatefold.errors.BundleCorrupt: index 'i1' is cut short\n\n"
    assert reason([traceback, traceback]) == "gatefold.errors.BundleCorrupt: index 'i1' is cut short"
    assert "see its logs" in reason(["", " \n"])


def test_replicas_that_do_not_agree_on_the_active_release_have_not_gone_over() -> None:
    assert agreed([["r2", "r1"], ["r2"], ["r2", "r0"]]) == ["r2", "r0", "r1"]
    assert agreed([["r2"], ["r1"]]) == []
    assert agreed([["r2"], []]) == []
    assert agreed([[]]) == []
