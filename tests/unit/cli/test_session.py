"""What a terminal says of a stage when it is done."""

from gatefold.cli.session import passed_over_lines
from pipelines.report import Report


def test_what_a_scan_passed_over_is_said_by_reason_and_suffix() -> None:
    details = {"passed_over": {"hidden": {"": 1, ".mp3": 1_200}}, "tags_unreadable": 3}
    report = Report(stage="catalogue", done=1, skipped=0, rejected=0, seconds=1.0, details=details)
    assert passed_over_lines(report) == [
        "  passed over, hidden: 1 without a suffix, 1,200 .mp3",
        "  tags that could not be read: those of 3 songs, which stay in the catalogue",
    ]
    assert passed_over_lines(report.model_copy(update={"details": {}})) == []
