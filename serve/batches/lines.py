"""Lines of a batch: JSON lines, each a call as it would be made by itself. Checked one by one as they arrive, so that a
large file is never in memory; all that is wrong with it is said at once.

    {"custom_id": "a-1", "method": "POST", "url": "/v1/covers", "body": {"song_id": "SONG_ID", "n": 2}}
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, ValidationError

from gatefold.config import ServeSettings
from gatefold.errors import InputError, TooLarge
from serve.api import requests
from serve.api.contracts import Body
from serve.api.limits import CUSTOM_ID_MAX
from serve.api.problems import explain
from serve.middleware.uploads import check_text

COVERS, SEARCHES = "/v1/covers", "/v1/searches"
Fields = requests.CoverQuery | requests.SearchQuery


class BatchCall(Body):
    """One line."""

    custom_id: str = Field(min_length=1, max_length=CUSTOM_ID_MAX, pattern=r"^[^\x00-\x1f\x7f]+$")
    """by which its answer is found; no other line of the batch has it"""
    method: Literal["POST"]
    url: Literal["/v1/covers", "/v1/searches"]
    body: dict[str, Any]
    """as the call takes it as JSON"""


@dataclass(frozen=True)
class BatchLine:
    """A line that can be run."""

    number: int
    """in the file, from 1"""
    custom_id: str
    url: str
    body: dict[str, Any]


@dataclass(frozen=True)
class LineFault:
    """What is wrong with a line."""

    number: int
    detail: str


@dataclass
class LineReader:
    """Bytes in, lines out; empty lines are none.

    Args:
        limits: `json_max_bytes` of a line, `batches.lines_max`, and those of the calls.
        webhooks: whether a call may have a `webhook_url`.

    Raises: TooLarge, from `feed`.
    """

    limits: ServeSettings
    webhooks: bool
    count: int = 0
    """lines so far, empty ones among them"""
    _rest: bytes = b""
    _known: dict[str, int] = field(default_factory=dict)  # lines, by custom_id

    def feed(self, data: bytes) -> list[BatchLine | LineFault]:
        """The lines that these bytes complete."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        most = self.limits.json_max_bytes
        if len(self._rest) > most:
            raise TooLarge(f"line {self.count + len(whole) + 1}: more than {most:,} bytes (serve.json_max_bytes)")
        return list(self._lines(whole))

    def end(self) -> list[BatchLine | LineFault]:
        """The last line, where no line end follows it."""
        last, self._rest = self._rest, b""
        return list(self._lines([last] if last else []))

    def _lines(self, texts: Iterable[bytes]) -> Iterator[BatchLine | LineFault]:
        for text in texts:
            self.count += 1
            if not text.strip():
                continue
            if len(self._known) >= self.limits.batches.lines_max:
                raise TooLarge(f"more than {self.limits.batches.lines_max:,} lines (serve.batches.lines_max)")
            try:
                line = parse_line(text, self.count, self.limits, webhooks=self.webhooks)
            except InputError as error:
                self._known[f"\0{self.count}"] = self.count  # it counts, too
                yield LineFault(self.count, error.message)
                continue
            first = self._known.setdefault(line.custom_id, line.number)
            if first == line.number:
                yield line
            else:
                yield LineFault(line.number, f"custom_id = '{line.custom_id}': line {first} has it already")


def parse_line(text: bytes, number: int, limits: ServeSettings, *, webhooks: bool) -> BatchLine:
    """The call in this line. Raises: InputError saying what is wrong with it."""
    if len(text) > limits.json_max_bytes:
        raise InputError(f"more than {limits.json_max_bytes:,} bytes (serve.json_max_bytes)")
    try:
        values = json.loads(text)
        check_text(values, "the line")
        json.dumps(values, allow_nan=False)  # what Python reads, and no database keeps
    except (ValueError, RecursionError) as error:
        raise InputError(f"cannot be read as JSON: {str(error)[:80]}") from None
    try:
        call = BatchCall.model_validate(values, strict=True)
        fields = call_fields(call.url, call.body, limits)
    except ValidationError as error:
        raise InputError(explain(list(error.errors()))) from None
    if isinstance(fields, requests.CoverQuery):
        requests.check_webhook(fields, webhooks=webhooks)
    return BatchLine(number, call.custom_id, call.url, call.body)


def call_fields(url: str, body: dict[str, Any], limits: ServeSettings) -> Fields:
    """The fields of the call. Raises: pydantic's ValidationError; InputError."""
    if url == COVERS:
        return requests.parse(requests.CoverQuery, body, limits, strict=True)
    return requests.parse(requests.SearchQuery, body, limits, strict=True)
