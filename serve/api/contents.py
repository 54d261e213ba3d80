"""Pictures and songs over HTTP: conditional requests (RFC 9110, section 13), ranges (section 14) and HEAD.

Knows nothing of what they hold."""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from serve.api import problems
from serve.api.description import content_parameters, content_responses

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*", re.IGNORECASE)
_TAG = re.compile(r'(?:W/)?"[^"]*"')


@dataclass(frozen=True)
class Content:
    """An encoded picture or song."""

    data: bytes
    media_type: str


def tag_of(*parts: object) -> str:
    """A strong ETag for what these determine to the last byte."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else f"{part}\n".encode())
    return f'"{digest.hexdigest()[:32]}"'


def is_known(request: Request, tag: str) -> bool:
    """Whether the caller has this already, so that 304 answers him (`If-None-Match`)."""
    known = request.headers.get("if-none-match", "")
    return known.strip() == "*" or tag in [one.removeprefix("W/") for one in _TAG.findall(known)]


def not_modified(tag: str, headers: Mapping[str, str]) -> Response:
    """The answer to a caller who has it already."""
    return Response(status_code=304, headers={**headers, "ETag": tag})


def content_response(request: Request, content: Content, tag: str, headers: Mapping[str, str]) -> Response:
    """The content, or the part of it that is asked for. A range of several parts is answered with the whole.

    Args:
        tag: its ETag.
        headers: to send beside.
    """
    size = len(content.data)
    sent = {**headers, "ETag": tag, "Accept-Ranges": "bytes"}
    if request.method == "HEAD":
        return Response(media_type=content.media_type, headers={**sent, "Content-Length": str(size)})
    found = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if found is None or not any(found.groups()) or request.headers.get("if-range", tag).strip() != tag:
        return Response(content.data, media_type=content.media_type, headers=sent)
    first, last = _bounds(found[1], found[2], size)
    if first > last:
        if found[1] and found[2] and int(found[1]) > int(found[2]):  # no range at all, which is to be ignored
            return Response(content.data, media_type=content.media_type, headers=sent)
        detail = f"Range = '{found[0].strip()}': there are {size:,} bytes"
        return problems.of_status(416, detail, request.url.path, {"Content-Range": f"bytes */{size}"})
    part = {"Content-Range": f"bytes {first}-{last}/{size}"}
    return Response(content.data[first : last + 1], 206, {**sent, **part}, content.media_type)


def add_content_route(router: APIRouter, path: str, endpoint: Callable[..., Any], *media_types: str) -> None:
    """A route that answers GET and HEAD, each with an operation of its own in the description."""
    for method in ("GET", "HEAD"):
        name = endpoint.__name__ if method == "GET" else f"{endpoint.__name__}_head"
        responses = content_responses(method, *media_types)
        router.add_api_route(
            path,
            endpoint,
            methods=[method],
            name=name,
            response_class=Response,
            responses=responses,
            openapi_extra=content_parameters(),
        )


def _bounds(first: str, last: str, size: int) -> tuple[int, int]:
    """First and last byte, the first behind the last where there are none."""
    if not first:
        return (max(0, size - int(last)), size - 1) if int(last) else (size, size - 1)
    return int(first), min(int(last), size - 1) if last else size - 1
