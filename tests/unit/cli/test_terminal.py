"""How a command speaks where nobody looks: plain lines, and one object on stdout."""

import io
import json
import re
import sys
from dataclasses import dataclass

import pytest

from gatefold.cli import terminal
from gatefold.cli.terminal import Terminal, sparkline, table
from gatefold.progress import OnProgress


@dataclass
class Done:
    done: int = 1200
    skipped: int = 0
    rejected: int = 0
    seconds: float = 12.34


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_a_finished_stage_is_a_line_with_counts_rejects_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=False).watch("covers", lambda _: Done(skipped=5, rejected=3))
    out, err = capsys.readouterr()
    assert (out, err.splitlines()) == ("", ["covers …", "✓ covers           1,200 done, 5 before, 3 rejected  12.3 s"])


def test_a_stage_that_had_nothing_to_do_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=False).watch("index", lambda _: Done(done=0, skipped=9))
    assert "up to date" in capsys.readouterr().err


def test_progress_in_a_log_is_a_line_every_few_seconds_with_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)

    def job(on_progress: OnProgress) -> Done:
        for second, done in ((0, 400), (1, 410), (6, 520), (7, 540), (12, 640)):
            clock.now = 100.0 + second
            on_progress(done, 1200)
        return Done()

    Terminal(as_json=False).watch("covers", job)
    lines = capsys.readouterr().err.splitlines()
    assert lines[1:-1] == ["covers: 520/1,200, 20/s, 34 s left", "covers: 640/1,200, 20/s, 28 s left"]


def test_a_line_in_a_log_has_the_facts_in_their_order(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(terminal, "time", clock)
    with Terminal(as_json=False).progress("covers") as on_progress:
        on_progress(0, 100_000)
        clock.now += 10
        on_progress(100, 100_000, {"read": "12.4 MB/s", "rejects": "empty_file 3"})
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "covers: 100/100,000, 10/s, 2.8 h left · read 12.4 MB/s · rejects empty_file 3"


class Screen(io.StringIO):
    """A terminal of eighty columns that keeps what is drawn on it."""

    def isatty(self) -> bool:
        return True


FACTS = {"read": "1,412.4 MB/s", "rejects": "undecodable_audio 1,113, silent_audio 991, empty_file 801", "workers": "9"}


def watched(monkeypatch: pytest.MonkeyPatch) -> Screen:
    """What stderr is from here on."""
    made = Screen()
    monkeypatch.setattr(sys, "stderr", made)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return made


def drawn(screen: Screen) -> list[str]:
    """Every line that was ever on the screen, without its colours."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue()).replace("\r", "\n")
    return [line.rstrip() for line in text.split("\n") if line.strip()]


def test_a_terminal_shows_the_bar_and_under_it_the_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch)
    with Terminal(as_json=False).progress("covers") as on_progress:
        on_progress(320, 1200, {"read": "3.1 MB/s", "workers": "2"})
    bar, facts = drawn(screen)[-2:]
    assert re.fullmatch(r". covers +━+.━+ 320/1,200 .*", bar)
    assert facts == "  read 3.1 MB/s · workers 2"


def test_without_facts_there_is_the_bar_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch)
    with Terminal(as_json=False).progress("covers") as on_progress:
        on_progress(320, 1200, FACTS)
        on_progress(640, 1200)
    assert "640/1,200" in drawn(screen)[-1]


def test_the_largest_catalogue_and_many_rejects_fit_into_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = watched(monkeypatch)
    with Terminal(as_json=False).progress("spectrograms") as on_progress:
        on_progress(9_876_543, 10_000_000, FACTS)
    bar, facts = drawn(screen)[-2:]
    assert "9,876,543/10,000,000" in bar
    assert facts == "  read 1,412.4 MB/s · rejects undecodable_audio 1,113, silent_audio… · workers 9"
    assert max(map(len, drawn(screen))) <= 80


def test_a_result_as_json_is_one_line_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    Terminal(as_json=True).result({"title": "Motörhead [bold]"}, "for people")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"title": "Motörhead [bold]"}


def test_a_table_is_not_folded_in_a_file_and_reads_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [(1, "[red]" + "long " * 40, None), (1000, "x", 0.5)]
    Terminal(as_json=False).result({}, table(("rank", "title", "score"), rows, right=("rank",)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "[red]long long" in lines[1]
    assert lines[2].startswith("1,000  x")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([], ""),
        ([2.0, 2.0], "▁▁"),
        ([3.0, 2.0, float("nan"), 1.0], "█▅▁"),
        ([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], "█▇▆▅▄▃▂▁"),
        ([8.0] * 100 + [1.0] * 40, "██████████▁▁▁▁"),
    ],
)
def test_a_sparkline_shows_how_values_went_from_the_least_to_the_greatest(values: list[float], line: str) -> None:
    assert sparkline(values) == line


def test_once_stdout_is_kept_only_results_reach_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # what is replaced below comes back
    speaking = Terminal(as_json=True)
    speaking.keep_stdout()
    sys.stdout.write("a daemon's chatter\n")
    speaking.failure("corrupt", "bad", {"stages": []})
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"code": "corrupt", "message": "bad"}, "stages": []}
    assert err == "a daemon's chatter\n✗ bad\n"
