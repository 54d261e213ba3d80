"""Rejects and reports: kept, read again, and counted."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gatefold.errors import Corrupt, SilentAudio, TooManyRejects, UndecodableAudio
from gatefold.records import REJECTS
from gatefold.storage import objects
from gatefold.workspace import Workspace
from pipelines.quarantine import check_share, read_rejects, reject_of, write_rejects
from pipelines.report import Report, read_report, write_report


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
        {"song_id": "a", "uri": "s3://b/a.mp3", "stage": "spectrograms", "code": "silent_audio",
         "message": "track 'a': silent", "attempt": 1},
        {"song_id": "b", "uri": None, "stage": "covers", "code": "undecodable_audio",
         "message": "track 'b': no audio", "attempt": 2},
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
    with pytest.raises(TooManyRejects, match=r"4 of 10 .* \(40%, limit 20%\), most often silent_audio \(3\), undec"):
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
