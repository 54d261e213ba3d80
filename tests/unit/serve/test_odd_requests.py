"""Requests that nobody sends by mistake: each has an answer that says what is wrong, and none of them breaks the
endpoint."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from gatefold.errors import GatefoldError, ObjectNotFound, StorageDenied, StorageUnavailable, TooLarge
from serve.api import thumbnails
from serve.middleware.security_headers import SecurityHeadersMiddleware
from tests.unit.serve.conftest import RELEASE, Endpoint

HALF = "\\ud800"
"""half of a character, as JSON writes it"""
JSON = {"Content-Type": "application/json"}
SECRET = "s3://secret-bucket/covers/1.png"


def form(*parts: tuple[str, bytes], charset: str = "") -> dict[str, Any]:
    body = b'--f\r\nContent-Disposition: form-data; name="song"; filename="a.wav"\r\n\r\nRIFF\r\n'
    for name, value in parts:
        body += f'--f\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + value + b"\r\n"
    kind = "multipart/form-data; boundary=f" + (f"; charset={charset}" if charset else "")
    return {"content": body + b"--f--\r\n", "headers": {"Content-Type": kind}}


def is_refused(answer: Any, status: int, said: str) -> None:
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert said in answer.json()["detail"]


@pytest.mark.parametrize(
    "body",
    [
        f'{{"song_id": "{HALF}"}}',
        f'{{"song_id": "t1", "genres": ["{HALF}"]}}',
        f'{{"song_id": "t1", "where": {{"{HALF}": ["x"]}}}}',
        f'{{"embedding": [1, 0, 0, 0], "encoder": "{HALF}"}}',
        f'{{"{HALF}": 1}}',
    ],
)
@pytest.mark.parametrize("route", ["/v1/searches", "/v1/covers"])
def test_half_a_character_in_json_is_refused(endpoint: Callable[..., Endpoint], route: str, body: str) -> None:
    is_refused(endpoint().client.post(route, content=body, headers=JSON), 422, "lone surrogate")


def test_half_a_character_in_a_form_is_refused(endpoint: Callable[..., Endpoint]) -> None:
    where = f'{{"genre": ["{HALF}"]}}'.encode()
    is_refused(endpoint().client.post("/v1/searches", **form(("where", where))), 422, "lone surrogate")


@pytest.mark.parametrize("field", ["song_id", "where"])
def test_a_character_of_code_0_is_refused_in_json_and_in_forms(endpoint: Callable[..., Any], field: str) -> None:
    value: Any = "a\0" if field == "song_id" else {"mood": "a\0"}
    client = endpoint().client
    is_refused(client.post("/v1/searches", json={"song_id": "t3", field: value}), 422, "has a character of code 0")
    is_refused(client.post("/v1/searches", **form(("where", b'{"a": "b\\u0000"}'))), 422, "has a character of code 0")


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "raw_unicode_escape", "idna", "punycode", "rot13", '"hex"'])
def test_a_form_in_an_odd_charset_is_refused(endpoint: Callable[..., Endpoint], charset: str) -> None:
    is_refused(endpoint().client.post("/v1/searches", **form(("k", b"+2AA-\\ud800"), charset=charset)), 415, "charset")


def test_a_form_in_utf_8_is_taken_wherever_that_is_said(endpoint: Callable[..., Endpoint]) -> None:
    assert endpoint().client.post("/v1/searches", **form(("k", b"1"), charset='"UTF-8"')).status_code == 200


def test_json_nested_ever_deeper_is_refused(endpoint: Callable[..., Endpoint]) -> None:
    for depth in (300, 900, 960, 990, 3_000):
        body = '{"song_id": ' + "[" * depth + "]" * depth + "}"
        assert endpoint().client.post("/v1/searches", content=body, headers=JSON).status_code == 422


def test_a_last_event_id_of_5000_digits_is_no_event(endpoint: Callable[..., Endpoint]) -> None:
    client = endpoint().client
    job = client.post("/v1/covers", json={"song_id": "t1", "n": 1}, headers={"Prefer": "wait=10"}).json()
    answer = client.get(f"/v1/covers/{job['job_id']}/events", headers={"Last-Event-ID": "9" * 5_000})
    assert answer.status_code in (200, 204)


@pytest.mark.parametrize("path", ["/v1/\ud800", "/v1/tracks/\n200 GET /v1"], ids=["half a character", "a line break"])
def test_the_last_resort_answers_whatever_the_path_holds_and_logs_it_in_one_line_of_ascii(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_: Scope, __: Receive, ___: Send) -> None:
        raise RuntimeError("fault")

    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(SecurityHeadersMiddleware(broken)(scope, receive, send))
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (500, "internal_error")
    assert caplog.messages == [f"GET {path!a} failed"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ObjectNotFound(f"'{SECRET}' is not there"), 404),
        (StorageUnavailable(f"'{SECRET}': timed out"), 503),
        (StorageDenied(f"'{SECRET}': 403"), 500),
        (TooLarge(f"'{SECRET}' has 10 bytes"), 404),
    ],
)
def test_a_cover_that_cannot_be_shown_says_nothing_of_where_it_lies(
    endpoint: Callable[..., Endpoint], monkeypatch: pytest.MonkeyPatch, error: GatefoldError, status: int
) -> None:
    def fails(*_: object) -> bytes:
        raise error

    monkeypatch.setattr(thumbnails, "read_cover", fails)
    answer = endpoint(cover_uri=SECRET).client.get("/v1/tracks/t0/cover")
    assert answer.status_code == status
    assert "secret-bucket" not in answer.text


def test_a_cover_that_is_no_picture_says_nothing_of_where_it_lies(
    endpoint: Callable[..., Endpoint], tmp_path: Path
) -> None:
    (tmp_path / "secret.png").write_bytes(b"no picture")
    answer = endpoint(cover_uri=(tmp_path / "secret.png").as_uri()).client.get("/v1/tracks/t0/cover")
    assert answer.status_code == 404
    assert str(tmp_path) not in answer.text


def test_what_is_said_of_many_faults_stays_short(endpoint: Callable[..., Endpoint]) -> None:
    client = endpoint().client
    many = {"embedding": ["x" * 1_000] * 1_500, "encoder": RELEASE.encoder.fingerprint}
    unknown = {"song_id": "t1"} | {f"{number}" * 200: "y" * 1_000 for number in range(100, 600)}
    long = {"song_id": "t1", "x" * (1_000_000): 1}
    for body in (many, unknown, long):
        answer = client.post("/v1/searches", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 8_000
    assert "more" in client.post("/v1/searches", json=many).json()["detail"]
