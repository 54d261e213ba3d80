import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from gatefold.config import ServeSettings
from gatefold.errors import InputError, TooLarge
from serve.middleware.uploads import RequestBody, read_body, shown_name

CHUNK = 65_536


class Sender:
    """A client that sends a body chunk by chunk, and counts the bytes that were taken from it."""

    def __init__(self, body: bytes, kind: str, length: int | None = None) -> None:
        self.taken = 0
        self._body = body
        headers = [(b"content-type", kind.encode())]
        if length is not None:
            headers.append((b"content-length", str(length).encode()))
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "app": None}
        self.request = Request(scope, self._receive)

    async def _receive(self) -> Message:
        chunk = self._body[self.taken : self.taken + CHUNK]
        self.taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": self.taken < len(self._body)}


def form(*parts: tuple[str, str | None, bytes]) -> tuple[bytes, str]:
    body = b""
    for name, filename, data in parts:
        extra = f'; filename="{filename}"' if filename is not None else ""
        body += f'--frontier\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + data + b"\r\n"
    return body + b"--frontier--\r\n", "multipart/form-data; boundary=frontier"


def read(sender: Sender, limit: int = 1_000_000, **options: Any) -> RequestBody:
    return asyncio.run(read_body(sender.request, ServeSettings(upload_max_bytes=limit), **options))


def test_a_form_gives_its_song_and_its_fields() -> None:
    parts = form(("song", "a.wav", b"RIFF"), ("k", None, b"5"), ("genres", None, b"x"), ("genres", None, b"y"))
    body = read(Sender(*parts), lists=frozenset({"genres"}))
    assert body.song is not None
    assert (body.song.data, body.song.name) == (b"RIFF", "a.wav")
    assert body.fields == {"k": "5", "genres": ["x", "y"]}


def test_a_large_song_within_the_limit_arrives_whole() -> None:
    data = bytes(range(256)) * 12_000  # beyond what is kept in memory while it streams in
    body = read(Sender(*form(("song", "a.wav", data))), limit=len(data))
    assert body.song is not None
    assert body.song.data == data


def test_a_declared_length_above_the_limit_is_refused_before_a_byte_is_read() -> None:
    sender = Sender(*form(("song", "a.wav", b"x")), length=10_000_000_000)
    with pytest.raises(TooLarge, match=r"the body has 10,000,000,000 bytes; an uploaded song may have 1,000,000"):
        read(sender)
    assert sender.taken == 0


def test_an_undeclared_flood_is_dropped_when_it_crosses_the_limit() -> None:
    sender = Sender(*form(("song", "a.wav", b"x" * 20_000_000)))
    with pytest.raises(TooLarge, match=r"serve.upload_max_bytes"):
        read(sender)
    assert sender.taken <= 1_000_000 + ServeSettings().form_fields_max_bytes + CHUNK


def test_a_song_just_above_the_limit_is_refused_although_the_form_fits() -> None:
    with pytest.raises(TooLarge, match=r"song 'a.wav': 1,001 bytes, at most 1,000"):
        read(Sender(*form(("song", "a.wav", b"x" * 1001))), limit=1000)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("k", None, b"5")], "no file in its field 'song'"),
        ([("song", None, b"text")], "no file in its field 'song'"),
        ([("tune", "a.wav", b"x")], "came in the field 'tune'"),
        ([("song", "a.wav", b"x"), ("k", None, b"1"), ("k", None, b"2")], "'k' was sent more than once"),
    ],
)
def test_a_form_that_cannot_be_used_says_what_is_wrong(parts: list[tuple[str, str | None, bytes]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(Sender(*form(*parts)))


def test_json_objects_are_read_and_nothing_else() -> None:
    assert read(Sender(b'{"song_id": "a"}', "application/json; charset=utf-8")).fields == {"song_id": "a"}
    for broken in (b"{", b"[1]", b'"a"', b"\xff", b"[" * 100_000):
        with pytest.raises(InputError):
            read(Sender(broken, "application/json"))
    with pytest.raises(TooLarge):
        read(Sender(b" " * (ServeSettings().json_max_bytes + 1), "application/json"))


def test_other_content_types_are_turned_away() -> None:
    with pytest.raises(HTTPException) as refused:
        read(Sender(b"x", "text/plain"))
    assert refused.value.status_code == 415


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\Music\\a.mp3", "a.mp3"),
        ("a\r\nX-Evil: 1\x1b[31m.wav", "a__X-Evil: 1_[31m.wav"),
        ("x" * 500, "x" * 80),
        ("", "song"),
        (None, "song"),
        ("Café – 1.flac", "Café – 1.flac"),
    ],
)
def test_file_names_are_made_fit_to_be_shown(sent: str | None, shown: str) -> None:
    assert shown_name(sent) == shown


@pytest.mark.filterwarnings("ignore:Unclosed file <tempfile.SpooledTemporaryFile:ResourceWarning")  # starlette's
def test_a_form_whose_end_is_missing_is_refused_as_that() -> None:
    body, kind = form(("song", "a.wav", b"RIFF" * 100))
    with pytest.raises(InputError, match="no file in its field 'song'"):
        read(Sender(body[: len(body) - 40], kind))


def test_json_that_python_does_not_take_is_not_called_something_else() -> None:
    with pytest.raises(InputError, match="cannot be read as JSON: Exceeds the limit"):
        read(Sender(b'{"k": ' + b"9" * 5_000 + b"}", "application/json"))
