"""Rejects and reports: kept, read again, and counted."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gatefold.errors import Corrupt, SchemaMismatch, SilentAudio, TooManyRejects, UndecodableAudio
from gatefold.records import REJECTS
from gatefold.storage import objects, tables
from gatefold.workspace import Workspace
from pipelines.extraction.blocks import spread
from pipelines.extraction.rejects import (
    RejectSample,
    attempt_key,
    check_share,
    check_share_early,
    count_rejects,
    read_attempts,
    read_rejects,
    reject_of,
    reject_table,
    remove_rejects,
)
from pipelines.report import Report, read_report, write_report
from tests.rejects import write_rejects


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(objects.resolve(str(tmp_path)))


def test_rejects_come_back_with_their_reason_the_oldest_first(workspace: Workspace) -> None:
    first = reject_of(SilentAudio("track 'a': silent"), "a", "s3://b/a.mp3", "spectrograms")
    second = reject_of(UndecodableAudio("track 'b': no audio"), "b", None, "covers", attempt=2)
    second = replace(second, at=first.at + timedelta(seconds=1))
    assert write_rejects(workspace, "covers", "p", [second]) is not None
    assert write_rejects(workspace, "spectrograms", "p", [first]) is not None
    table = read_rejects(workspace)
    assert table.schema == REJECTS
    assert table.select(["song_id", "uri", "stage", "code", "message", "attempt"]).to_pylist() == [
        {
            "song_id": "a",
            "uri": "s3://b/a.mp3",
            "stage": "spectrograms",
            "code": "silent_audio",
            "message": "track 'a': silent",
            "attempt": 1,
        },
        {
            "song_id": "b",
            "uri": None,
            "stage": "covers",
            "code": "undecodable_audio",
            "message": "track 'b': no audio",
            "attempt": 2,
        },
    ]
    assert read_rejects(workspace, "covers")["song_id"].to_pylist() == ["b"]


def test_nothing_rejected_leaves_no_part(workspace: Workspace) -> None:
    assert write_rejects(workspace, "covers", "p", []) is None
    assert read_rejects(workspace).equals(REJECTS.empty_table())


def test_too_many_rejects_name_the_most_frequent_codes(workspace: Workspace) -> None:
    rejects = [reject_of(SilentAudio("x"), str(n), None, "covers") for n in range(3)]
    rejects.append(reject_of(UndecodableAudio("x"), "4", None, "covers"))
    write_rejects(workspace, "covers", "p", rejects)
    check_share(workspace, "covers", 4, 20, 0.2)
    check_share(workspace, "covers", 0, 0, 0.0)
    with pytest.raises(TooManyRejects, match=r"4 of 10 .* \(40%, limit 20%\), most often silent_audio 3, undec"):
        check_share(workspace, "covers", 4, 10, 0.2)


def test_a_report_is_kept_and_read_again(workspace: Workspace) -> None:
    report = Report(stage="covers", done=3, skipped=1, rejected=0, seconds=0.5, details={"songs": 4})
    assert read_report(workspace, "covers") is None
    uri = write_report(workspace, report)
    assert uri == f"{workspace.reports}/covers.json"
    assert read_report(workspace, "covers") == report
    objects.put(uri, b"{}")
    with pytest.raises(Corrupt, match="run `gatefold covers` anew"):
        read_report(workspace, "covers")


def reject_three(workspace: Workspace) -> None:
    """Two silent songs in two parts, and one that cannot be decoded beside the first."""
    for part, song_id in (("p1", "a"), ("p2", "b")):
        rejects = [reject_of(SilentAudio(f"'{song_id}': silent"), song_id, None, "spectrograms", attempt=2)]
        if song_id == "a":
            rejects.append(reject_of(UndecodableAudio("'c': words"), "c", None, "spectrograms"))
        write_rejects(workspace, "spectrograms", part, rejects)


def test_rejects_of_one_code_are_removed_and_the_others_stay(workspace: Workspace) -> None:
    reject_three(workspace)
    assert remove_rejects(workspace, "spectrograms", "silent_audio") == 2
    assert read_rejects(workspace)["song_id"].to_pylist() == ["c"]
    assert remove_rejects(workspace, "spectrograms", "silent_audio") == 0
    assert remove_rejects(workspace, "spectrograms") == 1
    assert read_rejects(workspace).num_rows == 0
    assert remove_rejects(workspace, "covers") == 0


def test_how_often_a_song_was_tried_outlives_its_reject(workspace: Workspace) -> None:
    reject_three(workspace)
    remove_rejects(workspace, "spectrograms", "silent_audio")
    assert read_attempts(workspace, "spectrograms") == {"a": 2, "b": 2}
    remove_rejects(workspace, "spectrograms")
    assert read_attempts(workspace, "spectrograms") == {"a": 2, "b": 2, "c": 1}
    assert read_attempts(workspace, "covers") == {}


def test_another_file_under_the_same_song_id_is_tried_for_the_first_time(workspace: Workspace) -> None:
    tried = reject_of(SilentAudio("silent"), "a", None, "spectrograms", attempt=3)
    write_rejects(workspace, "spectrograms", "p", [replace(tried, etag="e1")])
    remove_rejects(workspace, "spectrograms")
    attempts = read_attempts(workspace, "spectrograms")
    assert attempts.get(attempt_key("a", "e1")) == 3
    assert attempt_key("a", "e2") not in attempts
    assert attempt_key("a", None) == attempt_key("a", "") == "a"


def test_rejects_without_etags_and_sizes_are_refused(workspace: Workspace) -> None:
    old = reject_table([reject_of(SilentAudio("silent"), "a", None, "covers")]).drop_columns(["etag", "size_bytes"])
    tables.write_part(workspace.rejects("covers"), "p", old)
    with pytest.raises(SchemaMismatch, match=r"no part of .* has .*etag"):
        read_rejects(workspace, "covers")


def after(codes: dict[str, int], tried: int, total: int, block_songs: int = 1, rejected: int | None = None) -> None:
    """Looks at a first run over so many songs; `rejected` is that of all runs."""
    sample = RejectSample(codes, tried, tried, block_songs, total - tried)
    known = sum(codes.values()) if rejected is None else rejected
    check_share_early("covers", sample, rejected=known, total=total, limit=0.2)


def test_a_job_that_goes_wrong_is_stopped_early_but_not_by_its_first_few() -> None:
    after({"silent_audio": 99}, 99, 10_000)
    after({"silent_audio": 40}, 100, 1_000)
    after({"silent_audio": 100}, 100, 100)  # done: raised at the end
    with pytest.raises(TooManyRejects, match=r"after 600 of 1,000 .* 201 .* at least 20% of all .* silent_audio 200"):
        after({"silent_audio": 200, "too_large": 1}, 600, 1_000)
    with pytest.raises(TooManyRejects, match=r"stopped after 2,000 of 1,000,000 .* at least 43% of all will be"):
        after({"silent_audio": 1_000}, 2_000, 1_000_000)


def test_rejects_of_earlier_runs_count_and_so_do_the_songs_they_made_rows_of() -> None:
    sample = RejectSample({"silent_audio": 500}, 500, 500, 1, 500)
    check_share_early("covers", sample, rejected=500, total=10_000, limit=0.2)
    with pytest.raises(TooManyRejects, match=r"stopped after 9,500 of 10,000 inputs, as 1,700 were rejected"):
        check_share_early("covers", sample, rejected=1_700, total=10_000, limit=0.2)


def looked_at_until(bad: Callable[[int], float], blocks: int, block_songs: int = 256) -> int:
    """Blocks of so many that a run gets to, and all of them where it is not stopped; `bad` is the share of a block."""
    rejected = 0
    for count, block in enumerate(spread(list(range(blocks))), 1):
        rejected += round(bad(block) * block_songs)
        try:
            after({"object_not_found": rejected}, count * block_songs, blocks * block_songs, block_songs)
        except TooManyRejects:
            return count
    return blocks


TEN_MILLION = 39_063
"""blocks of 256 songs"""


def test_of_ten_million_songs_25_000_bad_ids_in_front_stop_nothing() -> None:
    assert looked_at_until(lambda block: float(block < 98), TEN_MILLION) == TEN_MILLION


@pytest.mark.parametrize("blocks", [13, 100, 1_000])
def test_what_stays_within_the_limit_is_never_stopped_wherever_its_bad_songs_are(blocks: int) -> None:
    for first in range(0, blocks, max(1, blocks // 50)):
        bad = {(first + number) % blocks for number in range(int(0.2 * blocks))}
        assert looked_at_until(lambda block, bad=bad: float(block in bad), blocks) == blocks  # type: ignore[misc]


def test_the_more_is_bad_the_sooner_it_is_stopped() -> None:
    half = looked_at_until(lambda block: float(block < TEN_MILLION // 2), TEN_MILLION)
    assert looked_at_until(lambda _: 1.0, TEN_MILLION) == 17
    assert half < TEN_MILLION / 100
    assert looked_at_until(lambda _: 0.25, TEN_MILLION) < TEN_MILLION / 5


def test_rejects_are_counted_by_stage_and_code_the_most_frequent_first(workspace: Workspace) -> None:
    reject_three(workspace)
    groups = count_rejects(workspace)
    assert [(one.code, one.count) for one in groups] == [("silent_audio", 2), ("undecodable_audio", 1)]
    assert groups[0].example == "'b': silent"
    assert count_rejects(workspace, "covers") == []
