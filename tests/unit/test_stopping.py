"""What signals do to a process that handles them, and what Ray's start leaves of that."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from typer.testing import CliRunner

from gatefold.cli import app
from gatefold.stopping import Terminated, exit_code, handle_signals
from pipelines import cluster


@pytest.fixture
def handled() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handle_signals()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handled")
def test_sigterm_raises_what_ctrl_c_raises_and_has_another_exit_code() -> None:
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with pytest.raises(KeyboardInterrupt) as stop:
            signal.raise_signal(number)
        assert exit_code(stop.value) == code


@pytest.mark.usefixtures("handled")
def test_a_second_sigterm_does_not_cut_short_what_the_first_began() -> None:
    with pytest.raises(Terminated):
        signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)


def test_ctrl_c_works_where_it_was_ignored_from_the_start() -> None:
    program = (
        "import time\nfrom gatefold.stopping import handle_signals\n"
        "handle_signals()\nprint(flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )  # fmt: skip
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGINT)
        assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143), (SystemExit(15), 143)])
def test_a_stop_while_ray_starts_ends_with_its_code(
    stop: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    def connect(_: str | None) -> None:
        raise stop

    monkeypatch.setattr(cluster, "connect", connect)
    result = CliRunner().invoke(app, ["--workspace", str(tmp_path), "embed"])
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith("stopped;")


def test_the_handler_of_sigterm_outlives_what_replaces_it() -> None:
    def ours(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, ours)
    try:
        with cluster._sigterm_kept():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        assert signal.getsignal(signal.SIGTERM) is ours
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_ray_that_somebody_else_has_started_is_not_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    cluster.connect()
    cluster.disconnect()
    assert ended == []
