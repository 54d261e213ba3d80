"""The endpoint as it is deployed does what its description says."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from gatefold.workspace import Workspace
from serve.deploy import deploy, stop
from tests.factories import publish_small_release
from tests.integration.test_serve import CONFIG
from tests.openapi.run import faults
from tests.served import free_port

MUSIC = Path(__file__).parents[2] / "gatefold" / "examples"


@pytest.fixture(scope="module")
def url(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001
    workspace = Workspace((tmp_path_factory.mktemp("openapi") / "workspace").as_uri())
    publish_small_release(workspace)
    yield deploy(CONFIG, workspace=workspace.uri, examples=str(MUSIC), host="127.0.0.1", port=free_port()).url
    stop()


@pytest.fixture(scope="module")
def job_id(url: str) -> str:
    """Of a job that has succeeded."""
    order = {"song_id": "s1", "n": 1, "size": 64}
    answer = httpx.post(f"{url}/v1/covers", json=order, headers={"Prefer": "wait=60"}, timeout=90)
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded"), answer.text
    found: str = answer.json()["job_id"]
    return found


@pytest.mark.chaos
def test_the_endpoint_does_what_its_description_says(url: str, job_id: str, tmp_path: Path) -> None:
    song = httpx.get(f"{url}/examples").json()[0]["file"]
    known = {"job_id": job_id, "index": 0, "song_id": "s2", "file": song}
    assert faults(url, tmp_path, examples=5, known=known) == ""
