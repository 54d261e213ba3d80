"""The OpenAPI description of the endpoint: what FastAPI derives from the routes, completed by what it cannot know.

That is: problems under their own media type and with their headers, pictures, event streams, and the limits of this
endpoint. A route says which of these it has by the `responses` made here.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from gatefold.config import ServeSettings
from serve.access.scopes import needed_scopes
from serve.api.contracts import JobView, Problem
from serve.api.limits import CUSTOM_ID_MAX, described, marked
from serve.middleware.sunset import ENDINGS, Ending

KEY_SCHEME = "HTTPBearer"
PROBLEM_TYPE = "application/problem+json"
EVENTS_TYPE = "text/event-stream"
Responses = dict[int | str, dict[str, Any]]
_PROBLEM_HEADERS = {
    "WWW-Authenticate": "of 401: how to show a key",
    "Allow": "of 405: the methods that there are",
    "Content-Range": "of 416: how many bytes there are",
    "Retry-After": "of 429 and 503: seconds after which to try again",
}


class DescribedApi(FastAPI):
    """A FastAPI application whose description says what this endpoint takes at most.

    Args:
        limits: of this endpoint.
        needs_keys: whether callers must show a key now.
        options: of FastAPI.
    """

    def __init__(self, limits: ServeSettings, needs_keys: Callable[[], bool], **options: Any) -> None:
        self._limits, self._needs_keys = limits, needs_keys
        self._described: dict[bool, dict[str, Any]] = {}
        super().__init__(responses=PROBLEMS, **options)

    def openapi(self) -> dict[str, Any]:
        """The description, made once for an endpoint with keys and once without."""
        needs_keys = self._needs_keys()
        if needs_keys not in self._described:
            self.openapi_schema = None
            made = with_endings(described(_with_problems(super().openapi()), self._limits), ENDINGS)
            self._described[needs_keys] = _with_keys(made) if needs_keys else made
        return self._described[needs_keys]


def operation_id(route: APIRoute) -> str:
    """What clients made from the description call it: `covers_get`."""
    return f"{route.tags[0]}_{route.name}"


def headers(*required: str, **optional: str) -> dict[str, Any]:
    """Headers of a response.

    Args:
        required: `Name: what it says`, of those that are always there.
        optional: likewise by name, with `_` for `-`.
    """
    found = dict(line.split(": ", 1) for line in required)
    always = {name: _header(text) | {"required": True} for name, text in found.items()}
    return always | {name.replace("_", "-"): _header(text) for name, text in optional.items()}


def _header(text: str) -> dict[str, Any]:
    return {"description": text, "schema": {"type": "string"}}


PROBLEMS: Responses = {
    "4XX": {"model": Problem, "description": "What is wrong with the request.", "headers": headers(**_PROBLEM_HEADERS)},
    "5XX": {"model": Problem, "description": "What is wrong here.", "headers": headers(**_PROBLEM_HEADERS)},
}
_LOCATION = "Location: path of the job"
_REPLAYED = {"Idempotent_Replayed": "`true`, where an earlier request with this Idempotency-Key made it"}
_APPLIED = {"Preference_Applied": "`wait=SECONDS`, where it was asked for", **_REPLAYED}
_LINKS = {
    name: {"operationId": operation, "parameters": {"job_id": "$response.body#/job_id"}}
    for name, operation in (("read", "covers_get"), ("cancel", "covers_cancel"), ("follow", "covers_events"))
}
JOB_CREATED: Responses = {
    200: {
        "model": JobView,
        "description": "The job, ended: `Prefer: wait` waited for it, or Idempotency-Key names one that has.",
        "headers": headers(_LOCATION, **_APPLIED),
        "links": _LINKS,
    },
    202: {
        "description": "The job, queued or running.",
        "headers": headers(_LOCATION, "Retry-After: seconds until it will have ended, by an estimate", **_APPLIED),
        "links": _LINKS,
    },
}
_EVENT = {
    "title": "JobEvent",
    "type": "object",
    "required": ["id", "event", "data"],
    "properties": {
        "id": {"type": "string", "pattern": "^[0-9]+$"},
        "event": {"type": "string", "const": "state"},
        "data": {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"$ref": "#/components/schemas/JobView"},
        },
    },
}
EVENTS: Responses = {
    200: {
        "description": "Events named `state`: `id` counts the changes, `data` is the job as `GET /v1/covers/{job_id}` "
        "answers it. A queued job that moves up is sent again under the same `id`. Ends when the job does.",
        "content": {EVENTS_TYPE: {"schema": _EVENT}},
    },
    204: {"description": "The job has ended, and Last-Event-ID names its last event or a later one."},
}

JSON_LINES = "application/jsonl"
_LINES_SCHEMA = {"type": "string", "format": "binary", "contentMediaType": JSON_LINES}
_BATCH_SCHEMA = _LINES_SCHEMA | {"x-max-custom-id": CUSTOM_ID_MAX} | marked(x_max_lines="batches.lines_max")
BATCH_BODY = {"requestBody": {"required": True, "content": {JSON_LINES: {"schema": _BATCH_SCHEMA}}}}
BATCH_CREATED: Responses = {
    202: {"description": "The batch, which runs.", "headers": headers("Location: path of the batch", **_REPLAYED)},
}
_ANSWERS = _LINES_SCHEMA | {"contentSchema": {"$ref": "#/components/schemas/BatchLineAnswer"}}
LINES: Responses = {
    200: {"description": "JSON lines, one for each call.", "content": {JSON_LINES: {"schema": _ANSWERS}}},
}


def content_responses(method: str, *media_types: str) -> Responses:
    """What a route of `serve.api.contents` answers to GET or HEAD.

    Args:
        media_types: of what it answers.
    """
    tag, cache = "ETag: strong, of these very bytes", "Cache-Control: how long they may be kept"
    sent = headers(tag, cache, "Accept-Ranges: `bytes`", Content_Disposition="a file name, where it is asked for")
    contents = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    known = {"description": "What has its ETag in If-None-Match.", "headers": headers(tag, cache)}
    if method == "HEAD":
        return {200: {"description": "The headers of what GET answers.", "headers": sent}, 304: known}
    part = sent | headers("Content-Range: which bytes of how many")
    return {
        200: {"description": "All of it.", "content": contents, "headers": sent},
        206: {"description": "The bytes asked for by Range.", "content": contents, "headers": part},
        304: known,
    }


def content_parameters() -> dict[str, Any]:
    """Headers that a route of `serve.api.contents` reads, to be put beside those of its handler."""
    texts = {
        "If-None-Match": "ETags of what the caller has; 304 where this is among them",
        "If-Range": "the ETag of what Range is a part of; the whole is sent where it is another",
        "Range": "`bytes=FIRST-LAST`; whatever else it may hold, the whole is sent",
    }
    parameters = [
        {"name": name, "in": "header", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in texts.items()
    ]
    return {"parameters": parameters}


def _with_problems(description: dict[str, Any]) -> dict[str, Any]:
    """Problems under their media type, which FastAPI takes to be that of the route's other answers."""
    for path in description["paths"].values():
        for operation in path.values():
            for status in {*PROBLEMS, "422"} & set(operation["responses"]):
                response = operation["responses"][status]
                (content,) = response["content"].values()
                response["content"] = {PROBLEM_TYPE: content}
    return description


def with_endings(description: dict[str, Any], endings: Mapping[str, Ending]) -> dict[str, Any]:
    """The description in which the routes that end are marked as deprecated."""
    for route in endings:
        method, path = route.split(" ")
        description["paths"][path][method.lower()]["deprecated"] = True
    return description


def _with_keys(description: dict[str, Any]) -> dict[str, Any]:
    """The description with the scope that each operation needs, of which one is enough."""
    scheme = {"type": "http", "scheme": "bearer", "description": "an API key"}
    description.setdefault("components", {})["securitySchemes"] = {KEY_SCHEME: scheme}
    for path, operations in description["paths"].items():
        if not path.startswith("/v1/") or path.startswith("/v1/health/"):
            continue
        for method, operation in operations.items():
            operation["security"] = [{KEY_SCHEME: []}]
            operation["x-scopes"] = sorted(needed_scopes(f"{method.upper()} {path}"))
    return description
