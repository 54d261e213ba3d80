"""Isolation: children that really hang, crash and are killed, and parents that are killed."""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from gatefold import isolation
from gatefold.errors import DecoderCrashed, DecodingTimeout, GatefoldError, InvalidSettings, SilentAudio, Unavailable
from gatefold.isolation import Isolated
from tests.hazards import Task, Trace, Unreadable, make_broken_work, make_spectrograms, make_work

LIMIT_S = 0.5
PARENT = """
import sys
from gatefold.isolation import Isolated
from tests.hazards import Task, make_work
isolated = Isolated(make_work, timeout_s=600)
print(next(isolated.map([Task(0)]))[1].process, flush=True)
print(list(isolated.map([Task(1, sys.argv[1])])))
"""


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated[Task, Trace]]:
    with Isolated(make_work, timeout_s=LIMIT_S) as isolated:
        yield isolated


def outcomes(isolated: Isolated[Task, Trace], *deeds: str) -> list[Trace | GatefoldError]:
    """What became of items that do these deeds, in the order of the items."""
    pairs = list(isolated.map([Task(number, deed) for number, deed in enumerate(deeds)]))
    assert sorted(index for index, _ in pairs) == list(range(len(deeds)))
    return [outcome for _, outcome in sorted(pairs, key=lambda pair: pair[0])]


def kinds(isolated: Isolated[Task, Trace], *deeds: str) -> list[type]:
    return [type(outcome) for outcome in outcomes(isolated, *deeds)]


def child_of(isolated: Isolated[Task, Trace]) -> int:
    (trace,) = outcomes(isolated, "compute")
    assert isinstance(trace, Trace)
    return trace.process


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_gone_soon(process: int) -> bool:
    deadline = time.monotonic() + 5
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(process)


def test_each_item_has_its_own_result() -> None:
    with Isolated(make_spectrograms, timeout_s=20) as isolated:
        pairs = list(isolated.map(range(50, 90)))
    assert sorted(index for index, _ in pairs) == list(range(40))
    arrays = [(index, result) for index, result in pairs if not isinstance(result, GatefoldError)]
    assert len(arrays) == 40
    assert [index for index, array in arrays if not np.array_equal(array, np.full((64, 469), 50 + index))] == []


def test_no_item_needs_no_child() -> None:
    assert list(Isolated(partial(make_broken_work, "dies"), timeout_s=20).map([])) == []


def test_the_child_is_another_process_and_stays_from_one_map_to_the_next(isolated: Isolated[Task, Trace]) -> None:
    assert child_of(isolated) == child_of(isolated) != os.getpid()


def test_items_wait_together_and_compute_one_at_a_time(isolated: Isolated[Task, Trace]) -> None:
    child_of(isolated)
    waits = [trace for trace in outcomes(isolated, *["wait"] * 4) if isinstance(trace, Trace)]
    assert len(waits) == 4
    assert any(b.began_s < a.ended_s for a, b in itertools.pairwise(sorted(waits, key=lambda trace: trace.began_s)))

    traces = [trace for trace in outcomes(isolated, *["compute"] * 40) if isinstance(trace, Trace)]
    spans = sorted((trace.began_s, trace.ended_s) for trace in traces)
    assert len(spans) == 40
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def test_the_core_is_taken_back_after_a_wait_that_failed(isolated: Isolated[Task, Trace]) -> None:
    assert kinds(isolated, *["wait and fail", "compute"] * 8) == [SilentAudio, Trace] * 8


@pytest.mark.timeout(60)
@pytest.mark.parametrize("deed", ["sleep", "spin", "stutter"])
def test_an_item_that_hangs_is_interrupted_and_its_neighbours_are_served(
    isolated: Isolated[Task, Trace], deed: str
) -> None:
    good, bad, *rest = outcomes(isolated, "compute", deed, *["compute"] * 8)
    assert isinstance(bad, DecodingTimeout)
    assert "0.5 s" in str(bad)
    assert {type(outcome) for outcome in (good, *rest)} == {Trace}


@pytest.mark.timeout(60)
def test_a_child_that_takes_nothing_more_from_the_wire_is_interrupted_too(isolated: Isolated[Task, Trace]) -> None:
    tasks = [Task(0, "spin"), *(Task(number, load=bytes(10**6)) for number in range(1, 4))]
    assert [type(outcome) for _, outcome in sorted(isolated.map(tasks), key=lambda pair: pair[0])] == [
        DecodingTimeout, Trace, Trace, Trace
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("deed", "said"),
    [("segfault", "SIGSEGV"), ("exit", "exit code 3"), ("kill", "SIGKILL twice"), ("exhaust", "memory")],
)
def test_an_item_that_ends_the_process_is_distinguished_from_its_neighbours(
    isolated: Isolated[Task, Trace], deed: str, said: str
) -> None:
    good, bad, *rest = outcomes(isolated, "compute", deed, *["compute"] * 8)
    assert isinstance(bad, DecoderCrashed)
    assert said in str(bad)
    assert {type(outcome) for outcome in (good, *rest)} == {Trace}


def test_an_item_that_was_alone_when_the_machine_killed_its_process_has_another_try(
    isolated: Isolated[Task, Trace], tmp_path: Path
) -> None:
    ((_, outcome),) = isolated.map([Task(7, "kill twice", tmp_path / "kills")])
    assert isinstance(outcome, Trace)
    assert (tmp_path / "kills").read_text() == "xxx"


def test_a_child_is_the_first_to_go_when_memory_runs_out(isolated: Isolated[Task, Trace]) -> None:
    assert Path(f"/proc/{child_of(isolated)}/oom_score_adj").read_text().strip() == "1000"


def test_a_child_that_was_killed_between_two_maps_costs_nothing(isolated: Isolated[Task, Trace]) -> None:
    process = child_of(isolated)
    os.kill(process, signal.SIGKILL)
    assert is_gone_soon(process)
    assert kinds(isolated, "compute", "compute") == [Trace, Trace]


def test_waiting_for_the_core_behind_slow_items_is_no_fault(isolated: Isolated[Task, Trace]) -> None:
    assert kinds(isolated, *["slow"] * 4) == [Trace] * 4  # the last is done 0.8 s after it was begun


def test_the_time_the_caller_takes_is_not_the_items(isolated: Isolated[Task, Trace], tmp_path: Path) -> None:
    pairs = isolated.map([Task(0), Task(1, "wait for", tmp_path / "go"), Task(2, "wait for", tmp_path / "go")])
    _, first = next(pairs)
    time.sleep(LIMIT_S + 0.1)
    threading.Timer(0.1, (tmp_path / "go").touch).start()
    others = [outcome for _, outcome in pairs]
    assert {trace.process for trace in (first, *others) if isinstance(trace, Trace)} == {child_of(isolated)}
    assert len(others) == 2


def test_an_error_of_the_input_is_an_outcome(isolated: Isolated[Task, Trace]) -> None:
    fine, silent = outcomes(isolated, "compute", "fail")
    assert isinstance(fine, Trace)
    assert isinstance(silent, SilentAudio)
    assert str(silent) == "every sample is 0"


def test_a_bug_is_raised_with_its_traceback_and_leaves_nothing_behind(isolated: Isolated[Task, Trace]) -> None:
    process = child_of(isolated)
    with pytest.raises(RuntimeError, match=r"(?s)Task\(number=1, deed='blunder'.*task\.number / 0.*ZeroDivisionError"):
        outcomes(isolated, "wait", "blunder", "wait")
    assert not is_running(process)
    assert kinds(isolated, "compute") == [Trace]


def test_an_item_that_cannot_be_read_in_the_child_is_a_bug_and_no_crash(isolated: Isolated[Task, Trace]) -> None:
    with pytest.raises(RuntimeError, match="unreadable item"):
        list(isolated.map([Unreadable(0)]))


def test_a_caller_who_has_seen_enough_leaves_nothing_for_the_next_map(isolated: Isolated[Task, Trace]) -> None:
    pairs = isolated.map([Task(number) for number in range(100, 120)])
    next(pairs)
    pairs.close()  # type: ignore[attr-defined]
    (trace,) = outcomes(isolated, "compute")
    assert isinstance(trace, Trace)
    assert trace.number == 0


def test_two_maps_at_once_are_refused(isolated: Isolated[Task, Trace]) -> None:
    first = isolated.map([Task(0), Task(1)])
    next(first)
    with pytest.raises(RuntimeError, match="in the middle of a map"):
        next(isolated.map([Task(2)]))
    assert len(list(first)) == 1


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("refuses", InvalidSettings, "n_mels is 0"),
        ("fails", RuntimeError, "(?s)make_broken_work.*no module named 'decoder'"),
        ("dies", RuntimeError, "exit code 7"),
        ("is killed", Unavailable, "SIGKILL"),
    ],
)
def test_work_that_cannot_be_made_is_said_at_once(
    monkeypatch: pytest.MonkeyPatch, kind: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(isolation, "START_PAUSES_S", (0.0,))
    with Isolated(partial(make_broken_work, kind), timeout_s=20) as isolated, pytest.raises(error, match=said):
        list(isolated.map([Task(0)]))


def test_close_ends_the_child_and_a_later_map_starts_another(isolated: Isolated[Task, Trace]) -> None:
    process = child_of(isolated)
    isolated.close()
    assert not is_running(process)
    assert child_of(isolated) != process


@pytest.mark.parametrize("deed", ["sleep", "spin"])
def test_the_child_ends_when_its_parent_is_killed_even_in_the_middle_of_a_hang(deed: str) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, deed], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)
        assert is_running(child)
        parent.kill()
    assert is_gone_soon(child)


def test_ctrl_c_is_for_the_parent_to_decide(isolated: Isolated[Task, Trace]) -> None:
    process = child_of(isolated)
    os.kill(process, signal.SIGINT)
    assert child_of(isolated) == process


def test_two_hundred_items_with_bad_ones_among_them_end_exactly_once_each(tmp_path: Path) -> None:
    draw = random.Random(3)
    deeds = ["compute"] * 186 + ["fail"] * 6 + ["wait"] * 2 + ["sleep", "spin", "segfault", "exit", "kill", "exhaust"]
    draw.shuffle(deeds)
    wanted = {"sleep": DecodingTimeout, "spin": DecodingTimeout, "fail": SilentAudio, "compute": Trace, "wait": Trace}
    with Isolated(make_work, timeout_s=LIMIT_S) as isolated:
        pairs = list(isolated.map([Task(number, deed, tmp_path) for number, deed in enumerate(deeds)]))
    assert Counter(index for index, _ in pairs) == Counter(range(200))
    assert [(deeds[index], type(outcome)) for index, outcome in sorted(pairs, key=lambda pair: pair[0])] == [
        (deed, wanted.get(deed, DecoderCrashed)) for deed in deeds
    ]
    assert [index for index, outcome in pairs if isinstance(outcome, Trace) and outcome.number != index] == []
