"""docs/api.md and the README against the routes of the application."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.listening import listening

ROOT = Path(__file__).parents[3]
API = (ROOT / "docs" / "api.md").read_text()
EXAMPLES = API + (ROOT / "docs" / "operating.md").read_text() + (ROOT / "README.md").read_text()
_ROUTE = re.compile(r"`(GET|POST|DELETE) (/[^`]+)`")
_CURL = re.compile(r"^ *curl (.*)localhost:8000(/[^\s'?]*)", re.MULTILINE)
_PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_PLACES = {
    "JOB_ID": "{job_id}", "BATCH_ID": "{batch_id}", "SONG_ID": "{song_id}", "/images/0": "/images/{index}",
    "/deliveries/1": "/deliveries/{number}",
}  # fmt: skip


def routes(client: Any) -> set[str]:
    paths: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods if method != "head"}


def requested(options: str, path: str) -> str:
    """The route that a call of curl reaches."""
    for example, name in _PLACES.items():
        path = path.replace(example, name)
    if named := re.search(r"-X (\w+)", options):
        return f"{named[1]} {path}"
    return f"POST {path}" if re.search(r"(^| )(-[Fd]|--json) ", options) else f"GET {path}"


def test_the_documented_routes_are_those_there_are(endpoint: Callable[..., Any]) -> None:
    listed = API.partition("## Routes")[2].partition("\n## ")[0]
    assert {f"{method} {path}" for method, path in _ROUTE.findall(listed)} == routes(endpoint().client)


def test_every_example_with_curl_calls_a_route(endpoint: Callable[..., Any]) -> None:
    called = {requested(options, path) for options, path in _CURL.findall(EXAMPLES)}
    assert len(called) > 10
    assert called - routes(endpoint().client) == set()


def test_every_example_in_python_runs(
    endpoint: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = _PYTHON.findall(API)
    assert len(examples) > 2
    (tmp_path / "song.ogg").write_bytes(b"12345")
    monkeypatch.chdir(tmp_path)
    with listening(endpoint().build()) as url:
        for example in examples:
            exec(compile(example.replace("http://localhost:8000", url), "docs/api.md", "exec"), {"__name__": "example"})
    assert len(list((tmp_path / "covers").glob("*.png"))) == 2
