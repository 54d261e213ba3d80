"""Routes of batches: sent as JSON lines, followed, cancelled, and read as JSON lines."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from tempfile import TemporaryFile
from typing import IO, Any

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, StreamingResponse

from gatefold.config import ServeSettings
from gatefold.errors import InputError, TooLarge
from serve.access.audit import AuditLog
from serve.access.authorization import operation_of
from serve.access.callers import Caller
from serve.access.scopes import needed_scopes
from serve.api.cover_views import job_view
from serve.api.description import BATCH_BODY, BATCH_CREATED, JSON_LINES, LINES, PROBLEM_TYPE
from serve.api.limits import IdempotencyKey
from serve.api.problems import problem_of
from serve.batches.contracts import (
    BatchCounts,
    BatchLineAnswer,
    BatchLineError,
    BatchLineFault,
    BatchLineResponse,
    BatchProblem,
    BatchView,
)
from serve.batches.lines import BatchLine, LineFault, LineReader
from serve.batches.store import Batch, BatchStore, LineAnswer
from serve.jobs.jobs import Idempotency
from serve.jobs.rows import time_of

LINE_TYPES = (JSON_LINES, "application/x-ndjson", "application/x-jsonlines")
_LENGTH_DIGITS = 18
_AT_ONCE = 1_000  # lines written in one transaction
_NEVER_RUN = {"cancelled": "batch_cancelled", "expired": "batch_expired"}


class JsonLinesResponse(StreamingResponse):
    """Lines that are sent as they are read."""

    media_type = JSON_LINES


class BatchRoutes:
    """Handlers of the routes; thin, around the store of batches.

    Args:
        limits: `upload_max_bytes`, `batches`, and those of the calls.
        webhooks: whether a line may name a `webhook_url`.
    """

    def __init__(self, store: BatchStore, audit: AuditLog, limits: ServeSettings, *, webhooks: bool) -> None:
        self._store, self._audit, self._limits, self._webhooks = store, audit, limits, webhooks

    def router(self) -> APIRouter:
        """The routes of batches."""
        router = APIRouter(prefix="/batches", tags=["batches"])
        wrong = {"model": BatchProblem, "description": "Lines that are wrong; nothing of the batch was begun."}
        created = BATCH_CREATED | {422: wrong}
        router.add_api_route(
            "", self.create, methods=["POST"], status_code=202, openapi_extra=BATCH_BODY, responses=created
        )
        router.add_api_route("/{batch_id}", self.get)
        router.add_api_route("/{batch_id}", self.cancel, methods=["DELETE"])
        lines: dict[str, Any] = {
            "response_class": JsonLinesResponse,
            "response_model": BatchLineAnswer,
            "responses": LINES,
        }
        router.add_api_route("/{batch_id}/output", self.output, **lines)
        router.add_api_route("/{batch_id}/errors", self.errors, **lines)
        return router

    async def create(
        self, request: Request, response: Response, idempotency_key: IdempotencyKey = None
    ) -> BatchView:
        """Takes a batch: JSON lines, each a call with `custom_id`, `method`, `url` and `body`. Nothing of it runs
        where a line is wrong; then all that are wrong are named."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in LINE_TYPES:
            raise HTTPException(415, f"content type '{kind[:80]}' is not taken; send {' or '.join(LINE_TYPES)}")
        length, most = request.headers.get("content-length", ""), self._limits.upload_max_bytes
        if length.isdecimal() and (len(length) > _LENGTH_DIGITS or int(length) > most):
            raise TooLarge(f"the batch is too long; it may have {most:,} bytes (serve.upload_max_bytes)")
        caller: Caller = request.state.caller
        if idempotency_key is not None and (known := await self._store.known(caller.id, idempotency_key)) is not None:
            known.check(await self._digest(request))
            return _accepted(await self._store.get(known.batch_id), response, replayed=True)
        batch_id = await self._store.begin(caller.id)
        try:
            with TemporaryFile() as spooled:  # so that no transaction waits for a client
                faults, digest = await self._receive(request, caller, spooled)
                if faults:
                    raise _FaultyLinesError(faults)
                await self._write(batch_id, spooled)
            named = None if idempotency_key is None else Idempotency(idempotency_key, digest)
            batch = await self._store.arrived(batch_id, named)
        except BaseException as error:
            await self._store.drop(batch_id)
            if isinstance(error, _FaultyLinesError):
                return _refused(error.faults, request.url.path)  # type: ignore[return-value]
            raise
        return _accepted(batch, response, replayed=batch.batch_id != batch_id)

    async def get(self, request: Request, batch_id: str) -> BatchView:
        """A batch as it is now."""
        return _view(await self._own(request, batch_id))

    async def cancel(self, request: Request, batch_id: str) -> BatchView:
        """The batch, cancelled if it had not ended; what has been answered stays."""
        await self._own(request, batch_id)
        return _view(await self._store.cancel(batch_id))

    async def output(self, request: Request, batch_id: str) -> Response:
        """What has been answered so far, in the order of the lines."""
        await self._own(request, batch_id)
        return JsonLinesResponse(self._lines(batch_id, wrong=False))

    async def errors(self, request: Request, batch_id: str) -> Response:
        """The lines that failed so far, and of a batch that has ended those that were never run."""
        batch = await self._own(request, batch_id)
        return JsonLinesResponse(self._lines(batch_id, wrong=True, state=batch.state))

    async def _own(self, request: Request, batch_id: str) -> Batch:
        """The batch. Raises: NotFound where there is none, or it is another caller's."""
        caller: Caller = request.state.caller
        batch = await self._store.get(batch_id, caller.owner)
        if batch.caller != caller.id:
            request.state.audit = await self._audit.begin(caller.id, operation_of(request), request.url.path)
        return batch

    async def _receive(self, request: Request, caller: Caller, spooled: IO[bytes]) -> tuple[list[LineFault], str]:
        """Writes the lines into the file, checked; those that are wrong, and the SHA-256 of all, in hexadecimal.

        Raises: InputError; TooLarge.
        """
        reader, faults = LineReader(self._limits, self._webhooks), list[LineFault]()
        digest = hashlib.sha256()
        async for chunk in self._chunks(request):
            digest.update(chunk)
            faults += await asyncio.to_thread(_spool, reader.feed, chunk, caller, spooled)
        faults += await asyncio.to_thread(_spool, lambda _: reader.end(), b"", caller, spooled)
        if not faults and spooled.tell() == 0:
            raise InputError("the batch has no lines")
        return faults, digest.hexdigest()

    async def _digest(self, request: Request) -> str:
        """SHA-256 of the lines, as of `_receive`. Raises: TooLarge."""
        digest = hashlib.sha256()
        async for chunk in self._chunks(request):
            digest.update(chunk)
        return digest.hexdigest()

    async def _chunks(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises: TooLarge."""
        received = 0
        async for chunk in request.stream():
            received += len(chunk)
            if received > self._limits.upload_max_bytes:
                most = f"{self._limits.upload_max_bytes:,} (serve.upload_max_bytes)"
                raise TooLarge(f"the batch was dropped after {received:,} bytes; it may have {most}")
            yield chunk

    async def _write(self, batch_id: str, spooled: IO[bytes]) -> None:
        spooled.seek(0)
        while lines := await asyncio.to_thread(_some, spooled):
            await self._store.add(batch_id, lines)

    async def _lines(self, batch_id: str, *, wrong: bool, state: str = "") -> AsyncIterator[str]:
        async for answers in self._store.answers(batch_id):
            shown = [one for one in answers if (one.status is None or one.status >= 400) == wrong]
            yield "".join(f"{_answer_view(one, state).model_dump_json()}\n" for one in shown)


class _FaultyLinesError(Exception):
    def __init__(self, faults: list[LineFault]) -> None:
        super().__init__(faults)
        self.faults = faults


def _spool(read: Any, chunk: bytes, caller: Caller, spooled: IO[bytes]) -> list[LineFault]:
    faults = []
    for line in read(chunk):
        if isinstance(line, LineFault):
            faults.append(line)
        elif not caller.may(needed := needed_scopes(f"POST {line.url}")):
            scopes = " or ".join(sorted(needed))
            faults.append(LineFault(line.number, f"POST {line.url} needs an API key with the scope {scopes}"))
        else:
            spooled.write(json.dumps([line.number, line.custom_id, line.url, line.body]).encode() + b"\n")
    return faults


def _some(spooled: IO[bytes]) -> list[BatchLine]:
    lines: list[BatchLine] = []
    while len(lines) < _AT_ONCE and (text := spooled.readline()):
        lines.append(BatchLine(*json.loads(text)))
    return lines


def _refused(faults: list[LineFault], path: str) -> Response:
    first = "; ".join(f"line {fault.number}: {fault.detail}" for fault in faults[:3])
    problem = problem_of(InputError(f"{len(faults):,} lines are wrong, and nothing was begun: {first}"), path)
    lines = [BatchLineFault(line=fault.number, detail=fault.detail) for fault in faults]
    return JSONResponse(BatchProblem(**dict(problem), lines=lines).model_dump(), 422, media_type=PROBLEM_TYPE)


def _accepted(batch: Batch, response: Response, *, replayed: bool) -> BatchView:
    if replayed:
        response.headers["Idempotent-Replayed"] = "true"
    response.headers["Location"] = f"/v1/batches/{batch.batch_id}"
    return _view(batch)


def _view(batch: Batch) -> BatchView:
    path = f"/v1/batches/{batch.batch_id}"
    return BatchView(
        batch_id=batch.batch_id,
        state=batch.state,
        created_at=time_of(batch.created_at),
        ends_at=time_of(batch.ends_at),
        finished_at=None if batch.finished_at is None else time_of(batch.finished_at),
        expires_at=None if batch.expires_at is None else time_of(batch.expires_at),
        lines=batch.lines,
        counts=BatchCounts(**batch.counts),
        output_url=f"{path}/output",
        errors_url=f"{path}/errors",
    )


def _answer_view(answer: LineAnswer, state: str) -> BatchLineAnswer:
    response = error = None
    if answer.status is None:
        code = _NEVER_RUN.get(state, "job_cancelled")
        error = BatchLineError(code=code, message=f"it was not answered: {code.replace('_', ' ')}")
    else:
        body = answer.answer
        if answer.job is not None:
            view = job_view(answer.job).model_dump(mode="json")
            body = view["problem"] or view
        response = BatchLineResponse(status_code=answer.status, body=body)
    return BatchLineAnswer(line=answer.line, custom_id=answer.custom_id, response=response, error=error)
