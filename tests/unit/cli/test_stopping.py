"""What signals do to a process that handles them, and what Ray's start leaves of that."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import ray
from typer.testing import CliRunner

from gatefold.cli import stopping
from gatefold.cli.main import app
from gatefold.cli.stopping import Terminated, exit_code, handle_signals
from gatefold.cli.terminal import Terminal
from pipelines import cluster


@pytest.fixture
def handled() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handle_signals()
    yield
    stopping.begun.clear()
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
        "import time\nfrom gatefold.cli.stopping import handle_signals\n"
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
    def connect(_: str | None, *, verbose: bool) -> None:
        assert not verbose
        raise stop

    monkeypatch.setattr(cluster, "connect", connect)
    result = CliRunner().invoke(app, ["--workspace", str(tmp_path), "catalogue", str(tmp_path)])
    assert result.exit_code == code
    assert result.stderr.splitlines()[-1].startswith("stopped;")


@pytest.mark.usefixtures("handled")
def test_what_ray_prints_while_a_command_stops_is_not_seen_and_before_that_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # and back
    terminal = Terminal(as_json=False)
    terminal.keep_stdout()
    sys.stdout.write("(raylet) a worker died in the midst of the run\n")
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    sys.stdout.write("(raylet) a worker was killed, as it should be\n")
    terminal.note("stopped")
    terminal.result({}, "a result")
    out, err = capsys.readouterr()
    assert out == "a result\n"
    assert err == "(raylet) a worker died in the midst of the run\nstopped\n"


def test_while_ray_ends_its_threads_do_not_cover_the_last_words(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shutdown() -> None:
        thread = threading.Thread(target=print, args=("(raylet) a worker died or was killed",))
        thread.start()
        thread.join()

    monkeypatch.setattr(ray, "shutdown", shutdown)
    cluster._joined.set()
    cluster.disconnect()
    sys.stdout.write("the last word\n")
    assert capsys.readouterr() == ("the last word\n", "")


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
    ended: list[bool] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    cluster.connect()
    cluster.disconnect()
    assert ended == []
