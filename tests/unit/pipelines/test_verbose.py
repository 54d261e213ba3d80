"""What of Ray's logs is shown: nothing by default, all of it where it is asked for."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
import ray.train  # both set the levels of their logs when they are imported
from typer.testing import CliRunner

from gatefold.cli.main import app
from gatefold.cli.serve_command import deploy_endpoint
from gatefold.cli.session import Session
from gatefold.cli.terminal import Terminal
from gatefold.config import Settings
from gatefold.workspace import Workspace
from pipelines import cluster


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What Ray was started with; it is not started."""
    given: list[dict[str, Any]] = []
    monkeypatch.setenv("RAY_ADDRESS", "local")
    for name in ("RAY_BACKEND_LOG_LEVEL", "RAY_DATA_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: given.append(options))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    levels = {name: logging.getLogger(name).level for name in ("ray.data", "ray.train")}
    for name in levels:
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield given
    cluster._joined.clear()
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize("place", ["before", "after"])
def test_verbose_shows_what_ray_and_its_workers_log(
    started: list[dict[str, Any]], place: str, tmp_path: object
) -> None:
    verb = ["catalogue", str(tmp_path)]
    args = ["--verbose", *verb] if place == "before" else [*verb, "--verbose"]
    CliRunner().invoke(app, ["--workspace", str(tmp_path), *args])
    assert [(one["log_to_driver"], one["logging_level"]) for one in started] == [(True, logging.INFO)]
    assert "RAY_BACKEND_LOG_LEVEL" not in os.environ
    assert logging.getLogger("ray.data").level == logging.NOTSET


def test_without_it_ray_is_silent(started: list[dict[str, Any]], tmp_path: object) -> None:
    CliRunner().invoke(app, ["--workspace", str(tmp_path), "catalogue", str(tmp_path)])
    assert [(one["log_to_driver"], one["logging_level"]) for one in started] == [(False, logging.ERROR)]
    assert os.environ["RAY_BACKEND_LOG_LEVEL"] == "fatal"
    assert logging.getLogger("ray.data").level == logging.ERROR


@pytest.mark.parametrize(("verbose", "level"), [(False, logging.ERROR), (True, logging.NOTSET)])
def test_what_serve_logs_is_shown_where_that_is_asked_for(
    verbose: bool, level: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    serve_logs = logging.getLogger("ray.serve")
    monkeypatch.setattr(serve_logs, "level", logging.NOTSET)
    levels: list[int] = []
    monkeypatch.setattr("serve.deploy.deploy", lambda *_, **__: levels.append(serve_logs.level))
    workspace = Workspace(tmp_path.as_uri())
    session = Session(Settings(), workspace, Terminal(as_json=False, verbose=verbose), [])
    deploy_endpoint(session, "127.0.0.1", 8_000, is_open=False)
    assert levels == [level]
