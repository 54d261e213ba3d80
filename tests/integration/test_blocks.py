"""A stage over blocks: whatever befalls a run, every song ends with one row or one reject, made of what it is now."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from gatefold.errors import LeaseLost, RunInProgress, StorageUnavailable, TooManyRejects
from gatefold.storage import leases, objects, tables
from pipelines import blocks
from pipelines.quarantine import read_rejects, remove_rejects
from pipelines.report import NOTHING, read_report
from tests.words import AWAY, BAD, DEADLY, LATE, SLOW, Words, usable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]
ROOT = Path(__file__).parents[2]
DRIVER = """
import sys
from pathlib import Path
from pipelines.cluster import connect
from tests.words import Words
connect()
Words(Path(sys.argv[1])).run()
"""


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_PAUSE_S", (0.1, 0.2))


@pytest.fixture
def words(tmp_path: Path) -> Words:
    return Words(tmp_path)


def songs(count: int, text: str = "a song") -> dict[str, str]:
    return {f"s{number:03}": f"{text} {number}" for number in range(count)}


@contextmanager
def driver(words: Words) -> Iterator["subprocess.Popen[bytes]"]:
    """The stage in a process of its own with a Ray of its own; all of it is gone afterwards."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", DRIVER, str(words.folder)]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, start_new_session=True)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_parts(words: Words, count: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while len(tables.parts(words.target)) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "no part ever came"
        time.sleep(0.02)


def test_a_killed_driver_is_followed_by_one_that_does_the_rest_and_nothing_twice(words: Words) -> None:
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


def test_what_an_orphan_wrote_after_all_is_removed(words: Words) -> None:
    texts = songs(30)
    words.write(texts)
    words.run()
    (first, *others) = words.parts()
    part = tables.read_part(f"{words.target}/{first}")
    tables.write_part(words.target, "0-orphan", part)
    tables.write_part(words.target, "orphan-of-two", tables.read_part(f"{words.target}/{others[0]}").slice(0, 4))
    assert words.rows() != usable(texts)
    words.write(texts | {"new": "a new song"})
    assert words.run().done == 1
    assert words.rows() == usable(texts | {"new": "a new song"})


def test_what_an_orphan_writes_while_its_follower_works_is_removed_too(words: Words) -> None:
    texts = songs(24) | {"t": SLOW}
    words.write(texts)
    written: list[str] = []

    def write_double(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if not written and (parts := tables.parts(words.target)):
            written.append(tables.write_part(words.target, "orphan", tables.read_part(parts[0])))

    words.run(write_double)
    assert written
    assert words.rows() == usable(texts)


def test_a_run_that_was_followed_by_another_stops_and_writes_no_more(words: Words) -> None:
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


def test_changed_new_and_removed_songs_are_all_that_a_next_run_is_about(words: Words) -> None:
    texts = songs(20) | {"bad": BAD, "mended": BAD, "spoilt": "a song"}
    words.write(texts)
    words.run()
    words.times_read()
    after = {**texts, "s003": "sung anew", "mended": "a song after all", "spoilt": BAD, "new": "a new song"}
    del after["s007"], after["s008"]
    words.write(after)
    report = words.run()
    assert (report.done, report.skipped, report.rejected) == (4, 18, 2)
    assert words.times_read() == dict.fromkeys(("s003", "mended", "spoilt", "new"), 1)
    assert words.rows() == usable(after)
    assert words.refused() == ["bad", "spoilt"]


def test_where_nothing_changed_no_part_is_listed_or_read(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    words.write(songs(10) | {"bad": BAD})
    first = words.run()

    def refuse(*_: object) -> None:
        raise AssertionError("a part was looked at")

    for name in ("parts", "read_part", "write_part"):
        monkeypatch.setattr(tables, name, refuse)
    report = words.run()
    assert (report.done, report.skipped, report.rejected) == (0, 10, 1)
    assert report.details["rejected"] == first.details["rejected"] == {"undecodable_audio": 1}


def test_a_retry_runs_the_refused_and_counts_its_attempts(words: Words) -> None:
    texts = songs(10) | {"bad": BAD, "mended": BAD}
    words.write(texts)
    words.run()
    words.times_read()
    (words.folder / "texts" / "mended").write_text("a song after all")
    assert remove_rejects(words.workspace, "words") == 2
    report = words.run()
    assert words.times_read() == {"bad": 1, "mended": 1}
    assert (report.done, report.rejected) == (2, 1)
    (row,) = read_rejects(words.workspace, "words").to_pylist()
    assert (row["song_id"], row["attempt"], len(row["etag"])) == ("bad", 2, 8)


def test_many_small_parts_are_merged_with_their_neighbours(tmp_path: Path) -> None:
    words = Words(tmp_path, rows_per_block=40)
    texts = songs(100) | {f"bad{number}": BAD for number in range(9)}
    words.write(texts)
    words.run()
    parts = words.parts()
    assert len(tables.parts(words.workspace.rejects("words"))) < 9
    assert 3 <= len(parts) <= 4
    ranges = sorted((ids[0], ids[-1]) for ids in parts.values())
    assert all(end < start for (_, end), (start, _) in pairwise(ranges)), "they overlap"
    assert words.rows() == usable(texts)
    words.write(texts | {"new": "a new song"})
    words.run()
    assert parts.items() <= words.parts().items(), "what was merged is merged again"


def test_a_job_that_goes_wrong_is_stopped_before_it_has_read_everything(tmp_path: Path) -> None:
    words = Words(tmp_path, max_reject_share=0.3)
    words.write(songs(100) | {f"t{number:03}": BAD for number in range(60)} | {f"u{n:03}": SLOW for n in range(240)})
    with pytest.raises(TooManyRejects, match=r"stopped after \d+ of 400 .* most often undecodable_audio \d+"):
        words.run()
    report = read_report(words.workspace, "words")
    assert report is not None
    assert 100 <= report.done < 300
    assert "stopped after" in str(report.details["stopped"])
    there = words.parts()
    time.sleep(1)
    assert words.parts() == there, "it was stopped and went on"


def test_songs_that_the_store_hands_out_later_cost_a_second_pass_and_nothing_else(words: Words) -> None:
    texts = songs(20) | {"t1": LATE, "t2": LATE}
    words.write(texts)
    report = words.run()
    assert words.rows() == usable(texts)
    assert (report.done, report.rejected) == (22, 0)
    assert words.times_read() == {**dict.fromkeys(texts, 1), "t1": 2, "t2": 2}


def test_songs_that_cannot_be_read_stay_pending_and_the_rest_is_kept(words: Words) -> None:
    texts = songs(20) | {"t1": AWAY}
    words.write(texts)
    with pytest.raises(StorageUnavailable, match=r"1 inputs could not be read in 3 passes.*503 SlowDown"):
        words.run()
    assert words.rows() == usable(texts)
    assert words.refused() == []
    assert words.times_read()["t1"] == 3
    texts["t1"] = "a song"
    (words.folder / "texts" / "t1").write_text("a song")
    assert words.run().done == 1


def test_a_store_that_is_away_stops_the_job_at_once(words: Words) -> None:
    words.write({f"t{number:03}": AWAY for number in range(400)})
    with pytest.raises(StorageUnavailable, match="none of 8 inputs could be read"):
        words.run()
    assert max(words.times_read().values()) == 1
    with leases.hold(words.stage().lease):
        assert words.parts() == {}


def test_a_lost_worker_costs_its_block_once_more(words: Words) -> None:
    texts = songs(30) | {"t": DEADLY}
    words.write(texts)
    report = words.run()
    assert words.rows() == usable(texts)
    assert (report.done, report.rejected) == (31, 0)


def test_who_watches_is_told_the_rejects_and_the_workers(words: Words) -> None:
    words.write(songs(40) | {"bad": BAD})
    told: list[tuple[int, int, Mapping[str, str]]] = []

    def listen(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:
        told.append((done, total, facts))

    report = words.run(listen)
    assert (told[0][:2], told[-1][:2]) == ((0, 41), (41, 41))
    assert told[-1][2]["rejects"] == "undecodable_audio 1"
    assert told[-1][2]["workers"] == "2"
    assert told[-1][2]["read"].endswith(" MB/s")
    assert {"songs_per_s", "bytes_read", "work_s", "workers", "rejected"} <= set(report.details)
