"""Bodies of requests: a multipart song, or JSON; never more bytes than the limit, however many are sent.

The limit is held twice: by the Content-Length before a byte is read, and while the body streams in, so that a body
without a length (or with a false one) is dropped when it crosses the limit and not when it ends. Knows nothing of
audio.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message, Receive

from gatefold.config import ServeSettings
from gatefold.errors import InputError, TooLarge

_NAME_MAX = 80
_LENGTH_DIGITS = 18
_MULTIPART = "multipart/form-data"
_JSON = "application/json"
_CHARSETS = ("utf-8", "us-ascii")


@dataclass(frozen=True)
class Upload:
    """A song as it was sent: its bytes, and its file name fit to be shown in a message."""

    data: bytes
    name: str


@dataclass(frozen=True)
class RequestBody:
    """The fields of a request, and the song if one was uploaded. A field sent more than once is a list."""

    fields: dict[str, Any]
    song: Upload | None


async def read_body(request: Request, limits: ServeSettings, *, lists: frozenset[str] = frozenset()) -> RequestBody:
    """The body of a request that may be multipart or JSON.

    Args:
        limits: bytes of the song, of the fields beside it, of a JSON body.
        lists: names of the form fields that may be repeated.

    Raises: TooLarge (413); InputError (422) for a body that is no form, no JSON object, or has no song;
        HTTPException 415 for any other content type.
    """
    sent = request.headers.get("content-type", "")
    kind = sent.partition(";")[0].strip().lower()
    if kind == _MULTIPART:
        _check_charset(sent)
        return await _read_form(request, limits, lists)
    if kind == _JSON:
        return RequestBody(await _read_json(request, limits.json_max_bytes), None)
    raise HTTPException(415, f"content type '{kind[:_NAME_MAX]}' is not taken; send {_MULTIPART} or {_JSON}")


def check_text(value: object, where: str = "the body") -> None:
    """Raises: InputError where a text in this value, of JSON's kinds, is none that UTF-8 can write, or has a character
    of code 0, which PostgreSQL does not store."""
    if isinstance(value, str):
        if "\0" in value:
            raise InputError(f"{where} has a character of code 0; send text without it")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{where} holds a lone surrogate, {value[error.start]!a}, which is half of a character; "
                "send whole characters"
            ) from None
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            check_text(key, where)
            check_text(inner, f"field '{str(key)[:_NAME_MAX]}'")
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            check_text(inner, where)


def _check_charset(content_type: str) -> None:
    """Python knows encodings that are no charsets, and some that give what is no text."""
    for charset in re.findall(r";\s*charset\s*=\s*\"?([^;\"]*)", content_type, re.IGNORECASE):
        if charset.strip().lower() not in _CHARSETS:
            raise HTTPException(415, f"charset '{shown_name(charset)}' is not taken; send {' or '.join(_CHARSETS)}")


def shown_name(filename: str | None) -> str:
    """A file name that is safe to repeat: no folders, no control characters, at most 80 characters."""
    name = re.split(r"[/\\]", filename or "")[-1]
    name = "".join(character if character.isprintable() else "_" for character in name).strip()
    return name[:_NAME_MAX] or "song"


async def _read_form(request: Request, limits: ServeSettings, lists: frozenset[str]) -> RequestBody:
    song_max, fields_max = limits.upload_max_bytes, limits.form_fields_max_bytes
    allowed = (
        f"an uploaded song may have {song_max:,} (serve.upload_max_bytes), "
        f"the fields beside it {fields_max:,} (serve.form_fields_max_bytes)"
    )
    limited = _limited(request, song_max + fields_max, allowed)
    try:
        form = await limited.form(max_files=1, max_fields=limits.form_fields_max, max_part_size=fields_max)
    except HTTPException as error:
        raise _refused_form(str(error.detail), limits) from None
    try:
        texts = [value for _, value in form.multi_items() if isinstance(value, str)]
        if sum(len(text.encode(errors="replace")) for text in texts) > fields_max:
            raise _refused_form("Part exceeded", limits)
        return await _sorted(form, song_max, lists)
    finally:
        await form.close()


def _refused_form(said: str, limits: ServeSettings) -> InputError:
    """What starlette's parser of forms refused, with the setting that decides it."""
    if said.startswith("Too many fields"):
        return TooLarge(f"the form has more than {limits.form_fields_max:,} fields (serve.form_fields_max)")
    if said.startswith("Part exceeded"):
        allowed = f"at most {limits.form_fields_max_bytes:,} bytes (serve.form_fields_max_bytes)"
        return TooLarge(f"a field of the form is too large; the fields beside the song may have {allowed}")
    if said.startswith("Too many files"):
        return InputError("the form has more than one file; upload one song, in the field 'song'")
    return InputError(f"the form cannot be read: {said[:_NAME_MAX]}")


async def _sorted(form: FormData, song_max_bytes: int, lists: frozenset[str]) -> RequestBody:
    song: Upload | None = None
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            song = await _song(name, value, song_max_bytes)
        elif name in lists:
            fields.setdefault(name, []).append(value)
        elif name in fields:
            raise InputError(f"form field '{name[:_NAME_MAX]}' was sent more than once; send it once")
        else:
            fields[name] = value
    check_text(fields)
    if song is None:
        raise InputError(
            "the form has no file in its field 'song', or ends within it; upload one, or send a song_id as "
            "application/json"
        )
    return RequestBody(fields, song)


async def _song(field: str, file: UploadFile, max_bytes: int) -> Upload:
    name = shown_name(file.filename)
    if field != "song":
        raise InputError(f"file '{name}' came in the field '{field[:_NAME_MAX]}'; put the song in the field 'song'")
    if (file.size or 0) > max_bytes:
        raise TooLarge(f"song '{name}': {file.size:,} bytes, at most {max_bytes:,} (serve.upload_max_bytes)")
    return Upload(await file.read(), name)


async def _read_json(request: Request, max_bytes: int) -> dict[str, Any]:
    limited = _limited(request, max_bytes, f"a JSON body may have {max_bytes:,} (serve.json_max_bytes)")
    try:
        values = json.loads(await limited.body())
        check_text(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body cannot be read as JSON: {str(error)[:_NAME_MAX]}") from None
    if not isinstance(values, dict):
        raise InputError(f"the body must be a JSON object, not {type(values).__name__}")
    return values


def _limited(request: Request, max_bytes: int, allowed: str) -> Request:
    """The same request, whose body may not grow beyond `max_bytes`."""
    length = request.headers.get("content-length", "")
    if length.isdecimal() and (len(length) > _LENGTH_DIGITS or int(length) > max_bytes):
        raise TooLarge(f"the body has {int(length[:_LENGTH_DIGITS]):,} bytes; {allowed}")
    return Request(request.scope, _counting(request.receive, max_bytes, allowed))


def _counting(receive: Receive, max_bytes: int, allowed: str) -> Receive:
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise TooLarge(f"the body was dropped after {received:,} bytes; {allowed}")
        return message

    return counted
