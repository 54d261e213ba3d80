import json
from typing import Any

import pytest

from gatefold.config import ServeSettings
from gatefold.errors import TooLarge
from gatefold.serve_settings import JobBatchSettings
from serve.batches.lines import BatchLine, LineFault, LineReader

URL = "https://hooks.example.org/"


def line(custom_id: str = "a", url: str = "/v1/covers", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"song_id": "t3", **body}}


def read(*lines: object, chunk: int = 7, webhooks: bool = True, **limits: Any) -> list[BatchLine | LineFault]:
    """What these lines are, arriving a few bytes at a time."""
    reader = LineReader(ServeSettings(**limits), webhooks)
    texts = [one if isinstance(one, str) else json.dumps(one) for one in lines]
    data = "\n".join(texts).encode()
    found = [one for start in range(0, len(data), chunk) for one in reader.feed(data[start : start + chunk])]
    return found + reader.end()


def test_lines_are_numbered_as_in_the_file_and_empty_ones_are_none() -> None:
    found = read(line("a", n=2), "", "  \r", line("ü", "/v1/searches", k=3), "")
    assert found == [
        BatchLine(1, "a", "/v1/covers", {"song_id": "t3", "n": 2}),
        BatchLine(4, "ü", "/v1/searches", {"song_id": "t3", "k": 3}),
    ]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("{", "read as JSON"),
        ("[]", "dictionary|object"),
        ("[" * 100_000, "read as JSON"),
        ('{"custom_id": "\\ud800"}', "lone surrogate"),
        ('{"custom_id": "a\\u0000"}', "has a character of code 0"),
        ({"custom_id": "a"}, "method = nothing"),
        (line("") | {"custom_id": ""}, "custom_id"),
        (line("x" * 129), "at most 128 characters"),
        (line("a\0b"), "custom_id"),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/searches", "body": {"embedding": [1e999]}}', "read as JSON"),
        ('{"custom_id": "a", "method": "POST", "url": "/v1/searches", "body": {"embedding": [NaN]}}', "read as JSON"),
        (line() | {"method": "GET"}, "method"),
        (line(url="/v1/embeddings"), "url"),
        (line() | {"more": 1}, "more"),
        (line(n=99), r"n = 99: at most 8 \(serve.n_max\)"),
        (line(n="2"), "n = '2'"),
        (line() | {"body": {}}, "song_id = nothing"),
        (line(url="/v1/searches", k=0), "k = 0"),
        (line(webhook_url="https://10.0.0.1/"), "not public"),
    ],
)
def test_a_line_that_is_wrong_is_named_with_its_number_and_why(wrong: object, said: str) -> None:
    first, fault, last = read(line("first"), wrong, line("last"))
    assert isinstance(fault, LineFault)
    assert fault.number == 2
    assert (first, last) == (BatchLine(1, "first", "/v1/covers", {"song_id": "t3"}), last)
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(fault.detail)


def test_all_wrong_lines_are_named() -> None:
    found = read("{", line("a"), "{", line("b"), "{")
    assert [one.number for one in found if isinstance(one, LineFault)] == [1, 3, 5]


def test_no_two_lines_have_the_same_id() -> None:
    _, fault, _ = read(line("a"), line("a"), line("b"))
    assert fault == LineFault(2, "custom_id = 'a': line 1 has it already")


def test_a_webhook_needs_what_signs_it() -> None:
    (fault,) = read(line(webhook_url=URL), webhooks=False)
    assert isinstance(fault, LineFault)
    assert "GATEFOLD_WEBHOOK_SECRET is not set" in fault.detail
    assert isinstance(read(line(webhook_url=URL))[0], BatchLine)


def test_more_lines_than_the_limit_are_refused_wrong_ones_among_them() -> None:
    batches = JobBatchSettings(lines_max=2)
    assert len(read(line("a"), "", "{", "", batches=batches)) == 2
    with pytest.raises(TooLarge, match=r"more than 2 lines \(serve.batches.lines_max\)"):
        read(line("a"), "{", line("b"), batches=batches)


def test_a_line_without_an_end_is_not_kept() -> None:
    with pytest.raises(TooLarge, match=r"line 2: more than 1,024 bytes \(serve.json_max_bytes\)"):
        read(line(), "x" * 2000, json_max_bytes=1024)
