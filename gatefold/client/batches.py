"""`client.batches`: many calls in one file, run at low priority; their calls and answers, for both clients.

    batch = client.batches.create([
        {"custom_id": "a", "method": "POST", "url": "/v1/covers", "body": {"song_id": "SONG_ID", "n": 2}},
    ])
    client.batches.wait(batch.batch_id)
    for line in client.batches.output(batch.batch_id):
        print(line.custom_id, line.response)
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError

from gatefold.client.calls import Call, get, quoted
from gatefold.client.errors import BatchUnfinished, UnexpectedAnswer
from gatefold.client.models import Answer

if TYPE_CHECKING:
    from gatefold.client.async_client import AsyncClient
    from gatefold.client.client import Client

BatchCalls = str | PathLike[str] | Iterable[Mapping[str, Any]]
"""path of a file of JSON lines, or the calls"""
FIRST_POLL_S, LAST_POLL_S = 0.2, 10.0
"""seconds between two looks at a batch: it begins with the first, and doubles"""


class BatchTally(Answer):
    """Lines of a batch, by what became of them."""

    waiting: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0


class BatchStatus(Answer):
    """A batch at one moment."""

    batch_id: str
    state: str
    """running, completed, cancelled or expired"""
    created_at: datetime
    ends_at: datetime
    """when it expires if it is not completed"""
    finished_at: datetime | None
    expires_at: datetime | None
    """when it is deleted with its answers and its jobs"""
    lines: int
    counts: BatchTally
    output_url: str
    errors_url: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.state != "running"


class BatchResponse(Answer):
    """What the call of a line answered; a `JobStatus`, a `SearchAnswer` or a problem can be made of its body."""

    status_code: int
    body: dict[str, Any]


class BatchError(Answer):
    """Why a line was not run."""

    code: str
    message: str


class BatchLine(Answer):
    """A line of the output, or of the errors."""

    line: int
    """in the file that was sent, from 1"""
    custom_id: str
    response: BatchResponse | None
    error: BatchError | None


def create_batch(lines: bytes, idempotency_key: str | None) -> Call[BatchStatus]:
    """Call that creates a batch of these JSON lines; it may be repeated, since it always has an Idempotency-Key."""
    key = secrets.token_hex(16) if idempotency_key is None else idempotency_key
    headers = {"Content-Type": "application/jsonl", "Idempotency-Key": key}
    return Call("POST", "/v1/batches", BatchStatus, True, content=lines, headers=headers)


def batch_call(batch_id: str) -> Call[BatchStatus]:
    """Call for a batch as it is now."""
    return get(batch_path(batch_id), BatchStatus)


def cancel_batch(batch_id: str) -> Call[BatchStatus]:
    """Call that cancels a batch."""
    return Call("DELETE", batch_path(batch_id), BatchStatus, True)


def batch_path(batch_id: str, part: Literal["output", "errors"] | None = None) -> str:
    """The path of a batch, or of its answers."""
    path = f"/v1/batches/{quoted('batch_id', batch_id)}"
    return path if part is None else f"{path}/{part}"


class Batches:
    """Every call raises an error of `gatefold.client.errors`."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def create(self, batch: BatchCalls, *, idempotency_key: str | None = None) -> BatchStatus:
        """A batch, which runs.

        Args:
            idempotency_key: the same key with the same lines gives the same batch; one is made where it is absent.
        """
        return self._client.send(create_batch(_encoded(batch), idempotency_key))

    def get(self, batch_id: str) -> BatchStatus:
        """A batch as it is now."""
        return self._client.send(batch_call(batch_id))

    def cancel(self, batch_id: str) -> BatchStatus:
        """The batch, cancelled if it had not ended; what was answered stays."""
        return self._client.send(cancel_batch(batch_id))

    def wait(self, batch_id: str, timeout_s: float | None = None) -> BatchStatus:
        """The batch when it has ended.

        Args:
            timeout_s: at most; None is without end. The batch goes on all the same.

        Raises: BatchUnfinished.
        """
        ends, poll_s = None if timeout_s is None else time.monotonic() + timeout_s, FIRST_POLL_S
        while not (status := self.get(batch_id)).ended:
            time.sleep(_pause(status, ends, poll_s))
            poll_s = min(LAST_POLL_S, 2 * poll_s)
        return status

    def output(self, batch_id: str) -> Iterator[BatchLine]:
        """What was answered so far, in the order of the lines."""
        return self._lines(batch_path(batch_id, "output"))

    def errors(self, batch_id: str) -> Iterator[BatchLine]:
        """The lines that failed so far, and of a batch that has ended those that were never run."""
        return self._lines(batch_path(batch_id, "errors"))

    def _lines(self, path: str) -> Iterator[BatchLine]:
        rest = b""
        with self._client.stream(path, {"Accept": "application/jsonl"}) as answer:
            for data in answer.iter_bytes():
                *whole, rest = (rest + data).split(b"\n")
                yield from map(_line, whole)
        _check_end(rest)


class AsyncBatches:
    """The same for asyncio; the docstrings of `Batches` hold here too."""

    def __init__(self, client: "AsyncClient") -> None:
        self._client = client

    async def create(self, batch: BatchCalls, *, idempotency_key: str | None = None) -> BatchStatus:
        """A batch, which runs."""
        lines = await asyncio.to_thread(_encoded, batch)
        return await self._client.send(create_batch(lines, idempotency_key))

    async def get(self, batch_id: str) -> BatchStatus:
        """A batch as it is now."""
        return await self._client.send(batch_call(batch_id))

    async def cancel(self, batch_id: str) -> BatchStatus:
        """The batch, cancelled if it had not ended."""
        return await self._client.send(cancel_batch(batch_id))

    async def wait(self, batch_id: str, timeout_s: float | None = None) -> BatchStatus:
        """The batch when it has ended. Raises: BatchUnfinished."""
        ends, poll_s = None if timeout_s is None else time.monotonic() + timeout_s, FIRST_POLL_S
        while not (status := await self.get(batch_id)).ended:
            await asyncio.sleep(_pause(status, ends, poll_s))
            poll_s = min(LAST_POLL_S, 2 * poll_s)
        return status

    def output(self, batch_id: str) -> AsyncIterator[BatchLine]:
        """What was answered so far."""
        return self._lines(batch_path(batch_id, "output"))

    def errors(self, batch_id: str) -> AsyncIterator[BatchLine]:
        """The lines that failed so far, or were never run."""
        return self._lines(batch_path(batch_id, "errors"))

    async def _lines(self, path: str) -> AsyncIterator[BatchLine]:
        rest = b""
        async with self._client.stream(path, {"Accept": "application/jsonl"}) as answer:
            async for data in answer.aiter_bytes():
                *whole, rest = (rest + data).split(b"\n")
                for text in whole:
                    yield _line(text)
        _check_end(rest)


def _encoded(batch: BatchCalls) -> bytes:
    if isinstance(batch, str | PathLike):
        return Path(batch).read_bytes()
    return b"".join(json.dumps(dict(call), allow_nan=False).encode() + b"\n" for call in batch)


def _pause(status: BatchStatus, ends: float | None, poll_s: float) -> float:
    left_s = poll_s if ends is None else ends - time.monotonic()
    if left_s <= 0:
        raise BatchUnfinished(f"batch '{status.batch_id}' is still {status.state}, and goes on")
    return min(poll_s, left_s)


def _line(text: bytes) -> BatchLine:
    try:
        return BatchLine.model_validate_json(text)
    except ValidationError as error:
        raise UnexpectedAnswer(f"a line of a batch's answers is none: {error.errors()[0]['msg']}") from None


def _check_end(rest: bytes) -> None:
    if rest:
        raise UnexpectedAnswer("the answers of the batch broke off within a line")
