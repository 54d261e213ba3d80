"""One endpoint: where it is, the key it gets, and how a call becomes a request and an answer a model. No I/O.

The key goes to the origin of base_url and nowhere else: every address is made here, of base_url and a path, none is
taken from an answer, and redirects are not followed.
"""

import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TypeVar, cast

import httpx
from pydantic import BaseModel, ValidationError

from gatefold.client.calls import Call
from gatefold.client.errors import ClientError, NoAnswer, UnexpectedAnswer, error_of
from gatefold.client.retries import RetryPolicy, draw
from gatefold.client.uploads import MultipartBody

VARIABLE = "GATEFOLD_API_KEY"
CONNECT_TIMEOUT_S = 10.0
SILENCE_MAX_S = 45.0
"""an event stream silent for longer is taken for lost; the endpoint sends a comment every 15 s"""
_REPLAYED = "Idempotent-Replayed"
T = TypeVar("T")


class Endpoint:
    """Args:
    base_url: `https://host`, with a path where the endpoint lies behind one.
    api_key: else that of the environment variable GATEFOLD_API_KEY; none where that is empty.
    timeout_s: of silence, after which an answer is not waited for any longer.

    Raises: ValueError.
    """

    def __init__(self, base_url: str, api_key: str | None, timeout_s: float, retries: RetryPolicy) -> None:
        self.base_url = _checked_url(base_url)
        self._key = _checked_key(os.environ.get(VARIABLE, "") if api_key is None else api_key)
        if not timeout_s > 0:
            raise ValueError(f"timeout_s = {timeout_s}: a number of seconds above 0")
        self._timeout_s = timeout_s
        self._retries = retries

    def request(self, call: Call[T], within_s: float | None = None) -> httpx.Request:
        """Args: within_s: seconds that the answer may take at most. Raises: SongUnreadable."""
        headers = {"Accept": "*/*" if call.answer is bytes else "application/json", **call.headers}
        timeout_s = self._timeout_s if within_s is None else max(0.05, min(self._timeout_s, within_s))
        if call.song is not None:
            body = MultipartBody(call.song, call.fields)
            return self._request(call.method, call.path, headers | body.headers, timeout_s, stream=body)
        if call.json is not None:
            try:
                content = json.dumps(call.json, allow_nan=False).encode()
            except ValueError as error:
                raise ValueError(f"the request is no JSON: {error}") from None
            headers |= {"Content-Type": "application/json"}
            return self._request(call.method, call.path, headers, timeout_s, content=content)
        return self._request(call.method, call.path, headers, timeout_s, content=call.content, params=call.query)

    def stream_request(self, path: str, headers: Mapping[str, str]) -> httpx.Request:
        """For an event stream, or for lines that are read as they come."""
        return self._request("GET", path, dict(headers), SILENCE_MAX_S)

    def read(self, call: Call[T], answer: httpx.Response) -> T:
        """What was answered. Raises: ApiError; UnexpectedAnswer."""
        self.check(answer)
        if call.answer is type(None):
            return None
        if call.answer is bytes:
            return cast(T, answer.content)
        try:
            assert issubclass(call.answer, BaseModel)
            return call.answer.model_validate_json(answer.content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise UnexpectedAnswer(
                f"{call.method} {call.path}: {call.answer.__name__} {where}: {first['msg']}; "
                f"'{self.base_url}' is no gatefold endpoint, or one of another version"
            ) from None

    def check(self, answer: httpx.Response) -> None:
        """Nothing, for 2xx; with a FutureWarning where the route ends (`Sunset`, RFC 8594). Raises: ApiError."""
        if "Sunset" in answer.headers:
            called = f"{answer.request.method} {answer.request.url.path}"
            ends = f"{called} ends on {answer.headers['Sunset'][:64]}; a newer gatefold.client calls what replaces it"
            warnings.warn(ends, FutureWarning, stacklevel=2)  # a DeprecationWarning of a library is not shown
        if not answer.is_success:
            raise error_of(answer, datetime.now(UTC))

    def pause(self, call_repeatable: bool, failures: int, error: ClientError) -> float | None:
        """Seconds before the next attempt; None where there is none."""
        return self._retries.pause(failures, error, draw) if call_repeatable else None

    def _request(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        timeout_s: float,
        *,
        content: bytes | None = None,
        stream: MultipartBody | None = None,
        params: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s))
        url = httpx.URL(self.base_url + path, params=params or None)
        headers = {"Host": url.netloc.decode("ascii"), **headers}  # httpx adds none to a request with a stream
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        extensions = {"timeout": timeout.as_dict()}
        return httpx.Request(method, url, headers=headers, content=content, stream=stream, extensions=extensions)


@contextmanager
def no_answer(request: httpx.Request) -> Iterator[None]:
    """Turns httpx's errors into those of this package."""
    try:
        yield
    except (httpx.DecodingError, httpx.TooManyRedirects) as error:
        raise UnexpectedAnswer(f"{request.method} {request.url.path}: {error}") from error
    except httpx.RequestError as error:
        said = str(error) or type(error).__name__
        raise NoAnswer(f"{request.method} {request.url.path}: no answer of '{request.url.host}': {said}") from error


def is_replayed(answer: httpx.Response) -> bool:
    """Whether the answer is that of an earlier request with the same Idempotency-Key."""
    return str(answer.headers.get(_REPLAYED, "")).strip().lower() == "true"


def _checked_url(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ValueError(f"base_url = {base_url!r}: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"base_url = {base_url!r}: must be http:// or https:// with a host, and neither ? nor #")
    if url.userinfo:
        raise ValueError(f"base_url holds a user name or password for '{url.host}'; give api_key instead")
    return str(url).rstrip("/")


def _checked_key(key: str) -> str:
    """Raises: ValueError, which does not repeat it."""
    if not re.fullmatch(r"[\x20-\x7e]*", key) or key != key.strip():
        raise ValueError(f"api_key ({VARIABLE}) holds characters that no header can, or spaces around it")
    return key
