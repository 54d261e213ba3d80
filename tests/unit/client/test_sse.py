import json
from typing import Any

import pytest

from gatefold.client.errors import UnexpectedAnswer
from gatefold.client.sse import MAX_EVENT_BYTES, EventCursor, EventParser, ServerSentEvent

UNSET = (
    "novelty", "source_song_ids", "palette_from", "guidance_scale", "num_inference_steps", "strength", "adapter",
)  # fmt: skip


def job(state: str = "running", **values: Any) -> dict[str, Any]:
    request = dict.fromkeys(UNSET)
    return {
        "job_id": "j1", "state": state, "position": None, "progress": 0.5, "created_at": "2026-01-01T00:00:00Z",
        "finished_at": None, "release": "r1", "request": {"n": 1, "seed": 0, "size": 64, **request}, "matches": [],
        "images": [], "refused": [], "problem": None, **values,
    }  # fmt: skip


def event(number: object, data: dict[str, Any], kind: str = "state") -> bytes:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_an_event_is_the_same_however_its_bytes_are_cut(size: int) -> None:
    text = ": still here\n\nid: 3\nevent: state\ndata: {\"a\":\ndata:  1}\nretry: 5\n\nid: 4\r\ndata: zwölf\r\n\r\n"
    data = text.encode()
    parser = EventParser()
    found = [one for start in range(0, len(data), size) for one in parser.feed(data[start : start + size])]
    assert found == [ServerSentEvent("state", "3", '{"a":\n 1}'), ServerSentEvent("message", "4", "zwölf")]


def test_line_ends_of_unicode_do_not_end_a_line() -> None:
    text = "a\u2028b\u0085c\x0bd"
    (found,) = EventParser().feed(f"data: {text}\n\n".encode())
    assert found.data == text


def test_a_stream_without_end_is_given_up() -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // (1 << 22)):
        assert list(parser.feed(b"x" * (1 << 22))) == []
    with pytest.raises(UnexpectedAnswer, match="an event has more than"):
        list(parser.feed(b"x"))


def test_comments_for_hours_are_no_event_without_end() -> None:
    parser = EventParser()
    for _ in range(MAX_EVENT_BYTES // (1 << 20) + 1):
        assert list(parser.feed(b": " + b"x" * (1 << 20) + b"\n\n")) == []


def test_a_change_that_is_repeated_counts_once() -> None:
    cursor = EventCursor()
    first = list(cursor.feed(event(1, job()) + event(2, job(progress=0.7))))
    assert cursor.headers()["Last-Event-ID"] == "2"
    again = list(cursor.feed(event(1, job()) + event(2, job()) + event(3, job("succeeded"))))
    assert [one.progress for one in first] == [0.5, 0.7]
    assert [one.state for one in again] == ["succeeded"]
    assert cursor.ended


def test_half_an_event_is_forgotten_with_its_connection() -> None:
    cursor = EventCursor()
    assert list(cursor.feed(event(1, job())[:-30])) == []
    cursor.headers()
    assert [one.state for one in cursor.feed(event(1, job()))] == ["running"]


def test_events_of_another_kind_are_passed_over() -> None:
    assert list(EventCursor().feed(event(1, {"x": 1}, "news"))) == []


@pytest.mark.parametrize(
    ("data", "said"), [(event("x", job()), "'x' is no number"), (event(1, {"state": 5}), "event 1 is no job"),
                       (b"data: \xff\n\n", "no UTF-8")]
)  # fmt: skip
def test_an_event_that_is_none_of_this_api_is_an_error(data: bytes, said: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=said):
        list(EventCursor().feed(data))
