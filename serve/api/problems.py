"""Every error as application/problem+json (RFC 9457): one shape, a stable `code`, no traceback.

The detail is always our own message. An error that crossed a Ray handle is never turned into text here: its `str` is
the remote traceback, addresses included; the caller of the handle has unwrapped it first (serve.deployments.handles).
"""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount

from gatefold.errors import GatefoldError, InputError, Overloaded, Unauthorized, Unavailable
from serve.api.contracts import Problem
from serve.api.description import PROBLEM_TYPE

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""seconds; for what passes by itself and names no time of its own"""
_CODES = {400: "invalid_input"}
"""where the code is not simply the status in words"""
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
_SHOWN = 80
"""characters of a refused value, or of its field's name, that are repeated to the caller"""
_SAID = 400
"""characters of what is said about it"""
_DETAIL = 2_000
"""characters of a whole message; an error of a library part may repeat what it was given"""
_EXPLAINED = 10
"""refused fields that are explained"""


def problem_of(error: GatefoldError, instance: str) -> Problem:
    """The problem that this error is. Errors of our own making keep their details to the log.

    Args:
        instance: path of the request, or of the job that failed.
    """
    return _problem(error.code, error.status, error.message, instance)


def internal_error() -> GatefoldError:
    """The error that a caller gets when the fault is ours and unforeseen."""
    return GatefoldError("something failed inside the endpoint; the log has it under this request's X-Request-Id")


def respond(error: GatefoldError, instance: str) -> Response:
    """The answer to a request that ended in this error."""
    headers: dict[str, str] = {}
    if isinstance(error, Overloaded):
        headers["Retry-After"] = str(error.retry_after_s)
    elif isinstance(error, Unavailable):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    elif isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _response(problem_of(error, instance), headers)


def of_status(status: int, detail: str, instance: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer to a request that is refused for a reason HTTP itself has a status for."""
    code = _CODES.get(status, HTTPStatus(status).phrase.lower().replace(" ", "_"))
    return _response(_problem(code, status, detail, instance), headers)


def explain(errors: list[Any]) -> str:
    """The first refused fields, each with its value and what is allowed, in one sentence."""
    said = [_explain(error) for error in errors[:_EXPLAINED]]
    return "; ".join([*said, f"and {len(errors) - _EXPLAINED:,} more"] if len(errors) > _EXPLAINED else said)


def install(app: FastAPI) -> None:
    """Makes every error of this app a problem."""

    @app.exception_handler(GatefoldError)
    async def handle_domain_error(request: Request, error: GatefoldError) -> Response:
        if error.status >= 500 and not error.retryable:
            logger.error("%s %a: %s: %s", request.method, request.url.path, error.code, error.message)
        return respond(error, request.url.path)

    @app.exception_handler(RequestValidationError)
    async def refused_by_framework(request: Request, error: RequestValidationError) -> Response:
        return respond(InputError(explain(list(error.errors()))), request.url.path)

    @app.exception_handler(ValidationError)
    async def refused_by_contract(request: Request, error: ValidationError) -> Response:
        return respond(InputError(explain(list(error.errors()))), request.url.path)

    @app.exception_handler(HTTPException)
    async def by_status(request: Request, error: HTTPException) -> Response:
        path, sent = request.url.path, error.headers
        if error.status_code == 405:
            sent = {"Allow": ", ".join(allowed_methods(request))}
        return of_status(error.status_code, f"{request.method} {path}: {error.detail}", path, sent)


def allowed_methods(request: Request) -> list[str]:
    """All methods that this path has, whichever routes they are spread over; a route knows only its own."""
    scope = request.scope
    whole = {"type": "http", "path": scope["path"], "root_path": scope.get("app_root_path", "")}
    routes = request.app.router.routes
    if any(isinstance(route, Mount) and route.matches(whole)[0] is Match.FULL for route in routes):
        return ["GET", "HEAD"]  # files
    matched = {method: [route.matches({**whole, "method": method})[0] for route in routes] for method in _METHODS}
    return [method for method, found in matched.items() if Match.FULL in found]


def _problem(code: str, status: int, detail: str, instance: str) -> Problem:
    """Its title is its code in words, so that one code never has two."""
    title = code.replace("_", " ").capitalize()
    return Problem(title=title, status=status, detail=_cut(detail, _DETAIL), code=code, instance=instance)


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"] if part not in ("body", "query", "path", "header"))
    said = _cut(str(error["msg"]).removeprefix("Value error, "), _SAID)
    if not where:
        return said
    value = "nothing" if error["type"] == "missing" else repr(error.get("input"))
    if error["type"] == "extra_forbidden":
        said = "there is no such field"
    return f"{_cut(where, _SHOWN)} = {_cut(value, _SHOWN)}: {said}"


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"


def _response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    content = {name: _sendable(value) for name, value in problem.model_dump().items()}
    return JSONResponse(content, status_code=problem.status, headers=headers, media_type=PROBLEM_TYPE)


def _sendable(value: object) -> object:
    """The same; of a text that UTF-8 cannot write, what it can."""
    return value.encode(errors="replace").decode() if isinstance(value, str) else value
