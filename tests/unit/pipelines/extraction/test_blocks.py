"""What a stage over blocks makes of every history of its folder. Its blocks are mapped here, one after the other."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gatefold.errors import Corrupt, StorageUnavailable, TooManyRejects
from gatefold.progress import NOTHING
from gatefold.storage import tables
from pipelines.extraction import blocks
from pipelines.extraction.progress_counts import BlockCounts
from pipelines.extraction.rejects import read_rejects, remove_rejects
from pipelines.report import read_report
from tests.text_stage import AWAY, BAD, LATE, TextStage, usable


def map_here(cut: list[pa.Table], mapper: tuple[Any, ...], _num_gpus: int) -> Iterator[BlockCounts]:
    """What Ray does, by one worker that is never lost."""
    block_mapper = blocks._BlockWriter(*mapper)
    for tracks in cut:
        for said in block_mapper(tracks)["block"].to_pylist():
            yield BlockCounts.from_json(said)


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_map", map_here)
    monkeypatch.setattr(blocks, "_workers", lambda _num_gpus: 2)
    monkeypatch.setattr(blocks, "_PAUSE_S", (0.0, 0.0))


@pytest.fixture
def words(tmp_path: Path) -> TextStage:
    return TextStage(tmp_path)


def songs(count: int) -> dict[str, str]:
    return {f"s{number:03}": f"a song {number}" for number in range(count)}


def test_what_an_orphan_wrote_after_all_is_removed(words: TextStage) -> None:
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


def test_what_an_orphan_writes_while_its_follower_works_is_removed_too(words: TextStage) -> None:
    texts = songs(24)
    words.write(texts)
    written: list[str] = []

    def write_double(done: int, total: int, facts: Mapping[str, str] = NOTHING) -> None:  # noqa: ARG001
        if not written and (parts := tables.parts(words.target)):
            written.append(tables.write_part(words.target, "orphan", tables.read_part(parts[0])))

    words.run(write_double)
    assert written
    assert words.rows() == usable(texts)


def test_changed_new_and_removed_songs_are_all_that_a_next_run_is_about(words: TextStage) -> None:
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


def test_where_nothing_changed_no_part_is_listed_or_read(words: TextStage, monkeypatch: pytest.MonkeyPatch) -> None:
    words.write(songs(10) | {"bad": BAD})
    first = words.run()

    def refuse(*_: object) -> None:
        raise AssertionError("a part was looked at")

    for name in ("parts", "read_part", "write_part"):
        monkeypatch.setattr(tables, name, refuse)
    report = words.run()
    assert (report.done, report.skipped, report.rejected) == (0, 11, 1)
    assert report.details["rejected"] == first.details["rejected"] == {"undecodable_audio": 1}


def test_a_retry_runs_the_refused_and_counts_its_attempts(words: TextStage) -> None:
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
    words = TextStage(tmp_path, rows_per_block=40)
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


def test_songs_that_the_store_hands_out_later_cost_a_second_pass_and_nothing_else(words: TextStage) -> None:
    texts = songs(20) | {"t1": LATE, "t2": LATE}
    words.write(texts)
    report = words.run()
    assert words.rows() == usable(texts)
    assert (report.done, report.rejected) == (22, 0)
    assert words.times_read() == {**dict.fromkeys(texts, 1), "t1": 2, "t2": 2}


def test_songs_that_cannot_be_read_stay_pending_and_the_rest_is_kept(words: TextStage) -> None:
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


def test_a_job_that_goes_wrong_is_stopped_early_and_says_so_in_its_report(tmp_path: Path) -> None:
    words = TextStage(tmp_path, max_reject_share=0.3)
    words.write(songs(100) | {f"t{number:03}": BAD for number in range(300)})
    with pytest.raises(TooManyRejects, match=r"stopped after \d+ of 400 .* 12\d were .* undecodable_audio 12\d"):
        words.run()
    report = read_report(words.workspace, "words")
    assert report is not None
    assert 120 < report.rejected < 130
    assert report.rejected < report.done < 200, "it was not stopped as soon as it was certain"
    assert f"stopped after {report.done} of 400" in str(report.details["stopped"])
    assert words.stage().finished() is None


def test_bad_ids_in_front_stop_no_run_that_stays_within_the_limit(tmp_path: Path) -> None:
    words = TextStage(tmp_path, max_reject_share=0.2)
    texts = {f"a{number:03}": BAD for number in range(70)} | songs(330)
    words.write(texts)
    report = words.run()
    assert (report.done, report.rejected) == (400, 70)
    assert words.rows() == usable(texts)


def test_blocks_come_in_an_order_that_has_nothing_to_do_with_their_ids_and_is_the_same_each_time() -> None:
    ids = list(range(1000))
    spread = blocks.spread(ids)
    assert sorted(spread) == ids
    assert spread == blocks.spread(ids) != ids
    assert all(300 < sum(spread[start : start + 100]) / 100 < 700 for start in range(0, 1000, 100))


def test_too_many_rejects_are_reported_every_time_but_found_once(tmp_path: Path) -> None:
    words = TextStage(tmp_path, max_reject_share=0.3)
    words.write(songs(4) | {f"t{number}": BAD for number in range(4)})
    for _ in range(2):
        with pytest.raises(TooManyRejects, match=r"4 of 8 inputs were rejected"):
            words.run()
    assert set(words.times_read().values()) == {1}


def test_a_store_that_is_away_stops_the_job_at_its_first_block(words: TextStage) -> None:
    words.write({f"t{number:03}": AWAY for number in range(40)})
    with pytest.raises(StorageUnavailable, match="none of 8 inputs could be read"):
        words.run()
    assert words.times_read().total() == 8


def test_a_mapper_that_forgets_a_song_stops_the_job(words: TextStage, monkeypatch: pytest.MonkeyPatch) -> None:
    words.write(songs(10))

    def forgetful(_: object, tracks: pa.Table) -> blocks.BlockResult:
        return blocks.BlockResult(tracks.slice(1).select(["song_id"]))

    monkeypatch.setattr("tests.text_stage._read_block", forgetful)
    with pytest.raises(Corrupt, match="songs went in and not out"):
        words.run()


def test_a_folder_that_was_deleted_is_made_anew(words: TextStage) -> None:
    words.write(songs(10))
    words.run()
    for uri in tables.parts(words.target):
        Path(uri.removeprefix("file://")).unlink()
    Path(words.target.removeprefix("file://"), "_finished.json").unlink()
    assert words.run().done == 10
    assert words.rows() == usable(songs(10))


def test_what_other_settings_make_of_the_rejects_they_share_is_looked_at_again(words: TextStage) -> None:
    words.write(songs(3) | {"bad": BAD})
    words.run()
    assert words.stage().finished() is not None
    replace(words.stage(), target=f"{words.workspace.uri}/words/2").begin()
    assert words.stage().finished() is None
    assert words.run().done == 0


@pytest.mark.parametrize(
    ("count", "cores", "at_most", "expected"),
    [(3, 2, 256, [3]), (40, 2, 256, [8] * 5), (320, 2, 256, [20] * 16), (5000, 2, 256, [256] * 19 + [136]),
     (9, 4, 2, [2, 2, 2, 2, 1])],
)  # fmt: skip
def test_blocks_are_many_enough_for_every_worker_and_never_too_large(
    count: int, cores: int, at_most: int, expected: list[int]
) -> None:
    todo = pa.table({"song_id": [f"{number:05}" for number in reversed(range(count))]})
    cut = blocks.cut(todo, cores, at_most)
    assert [block.num_rows for block in cut] == expected
    assert pa.concat_tables(cut)["song_id"].to_pylist() == sorted(todo["song_id"].to_pylist())
