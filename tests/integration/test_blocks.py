"""A stage over blocks: whatever befalls a run, every song ends with one row or one reject, made of what it is now."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from gatefold.errors import LeaseLost, RunInProgress, StorageUnavailable, TooManyRejects
from gatefold.progress import NOTHING
from gatefold.storage import leases, objects, tables
from pipelines.extraction import blocks
from pipelines.report import read_report
from tests.text_stage import AWAY, BAD, DEADLY, LAST, SLOW, TextStage, usable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from pipelines.cluster import connect
from tests.text_stage import TextStage
connect()
TextStage(Path(sys.argv[1])).run()
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_PAUSE_S", (0.1, 0.2))


@pytest.fixture
def words(tmp_path: Path) -> TextStage:
    return TextStage(tmp_path)


def songs(count: int, text: str = "a song") -> dict[str, str]:
    return {f"s{number:03}": f"{text} {number}" for number in range(count)}


@contextmanager
def driver(words: TextStage) -> Iterator["subprocess.Popen[bytes]"]:
    """The stage in a process of its own with a Ray of its own; all of it is gone afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_ADDRESS": "local"}
    command = [sys.executable, "-c", DRIVER, str(words.folder)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_parts(words: TextStage, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while len(tables.parts(words.target)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no part ever came"
        time.sleep(0.02)


@pytest.mark.chaos
def test_a_killed_driver_is_followed_by_one_that_does_the_rest_and_nothing_twice(words: TextStage) -> None:
    texts = {**songs(24), **{f"t{number:03}": SLOW for number in range(96)}, "bad": BAD}
    words.write(texts)
    with driver(words) as process:
        wait_for_parts(words, 4, process)
        with pytest.raises(RunInProgress, match=f"process {process.pid} on"):
            words.run()
        process.kill()  # alone: what Ray started for it lives on for a while, and would write
        process.wait()
        finished = [song_id for ids in words.parts().values() for song_id in ids]
        words.times_read()
        report = words.run()
    assert words.rows() == usable(texts)
    assert words.refused() == ["bad"]
    assert report.skipped >= len(finished) >= 24
    assert report.done + report.skipped == 121
    again = words.times_read()
    assert not set(finished) & {song_id for song_id, times in again.items() if song_id < "t"}
    assert words.run().done == 0


def test_a_run_that_was_followed_by_another_stops_and_writes_no_more(words: TextStage) -> None:
    words.write({f"t{number:03}": SLOW for number in range(64)})

    def be_followed(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if done:
            objects.put_if_absent(objects.join(words.stage().lease, "00000009.json"), b"{}")

    with pytest.raises(LeaseLost, match="taken over"):
        words.run(be_followed)
    before = words.parts()
    time.sleep(1)
    assert words.parts() == before
    assert len(words.rows()) < 64


@pytest.mark.chaos  # test_journey.py and tests/unit/pipelines/extraction/test_rejects.py have it in parts
def test_a_job_that_goes_wrong_is_stopped_before_it_has_read_everything(tmp_path: Path) -> None:
    words = TextStage(tmp_path, max_reject_share=0.3)
    words.write(songs(100) | {f"t{number:03}": BAD for number in range(260)} | {f"u{n:03}": SLOW for n in range(40)})
    with pytest.raises(TooManyRejects, match=r"stopped after \d+ of 400 .* most often undecodable_audio \d+"):
        words.run()
    report = read_report(words.workspace, "words")
    assert report is not None
    assert 100 <= report.done < 300
    assert "stopped after" in str(report.details["stopped"])
    there = words.parts()
    time.sleep(1)
    in_hand = set(words.parts()) - set(there)  # a worker may write the block that it has just finished
    assert len(in_hand) <= 2, "it was stopped and went on"
    there = words.parts()
    time.sleep(1)
    assert words.parts() == there, "it was stopped and went on"


def test_a_store_that_is_away_stops_the_job_at_once(words: TextStage) -> None:
    words.write({f"t{number:03}": AWAY for number in range(400)})
    with pytest.raises(StorageUnavailable, match="none of 8 inputs could be read"):
        words.run()
    assert max(words.times_read().values()) == 1
    with leases.hold(words.stage().lease):
        assert words.parts() == {}


def test_a_lost_worker_costs_its_block_once_more(words: TextStage) -> None:
    texts = songs(30) | {"t": DEADLY}
    words.write(texts)
    report = words.run()
    assert words.rows() == usable(texts)
    assert (report.done, report.rejected) == (31, 0)


def test_progress_reports_the_rejects_and_the_workers(words: TextStage) -> None:
    words.write(songs(40) | {"bad": BAD})
    reported: list[tuple[int, int, Mapping[str, str]]] = []

    def watch(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        reported.append((done, total, facts))

    report = words.run(watch)
    assert (reported[0][:2], reported[-1][:2]) == ((0, 41), (41, 41))
    assert reported[-1][2]["rejects"] == "undecodable_audio 1"
    assert reported[-1][2]["workers"] == "2"
    assert reported[-1][2]["read"].endswith(" MB/s")
    assert {"songs_per_s", "bytes_read", "work_s", "workers", "rejected"} <= set(report.details)


def test_a_block_is_reported_when_it_is_finished_and_not_with_the_next(
    words: TextStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "spread", list)  # the one that waits comes last, should there be one worker
    texts = songs(8) | {"t0": LAST}
    words.write(texts)

    def watch(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if done:
            words.reported.touch()

    words.run(watch)
    assert words.rows() == usable(texts)
