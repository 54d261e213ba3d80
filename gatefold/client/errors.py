"""What a call of the HTTP API can raise: an answer that says no, no answer, or a job that did not succeed.

Arguments go to `Exception.__init__` by position, which is what survives pickling.
"""

import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx
from pydantic import ValidationError

from gatefold.client.models import JobStatus, ProblemDetails

_SHOWN = 200
"""characters of an answer in another format that are repeated"""


class ClientError(Exception):
    """Root of all that this package raises of itself, but for ValueError where a call cannot be meant."""


class ApiError(ClientError):
    """An answer that says no.

    Attributes:
        status: HTTP status.
        code: stable name of the error; `http_STATUS` where the answer is not one of this API, but of a proxy.
        detail: what is wrong, for people.
        retry_after: seconds after which to try again; None where the answer does not say.
        request_id: under which the endpoint's log has the request; None where the answer does not say.
    """

    def __init__(
        self, status: int, code: str, detail: str, retry_after: float | None = None, request_id: str | None = None
    ) -> None:
        super().__init__(status, code, detail, retry_after, request_id)
        self.status, self.code, self.detail = status, code, detail
        self.retry_after, self.request_id = retry_after, request_id

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.detail}"


class RequestRefused(ApiError):
    """4xx: the request cannot be answered as it is; the same one will fail again."""


class KeyRefused(RequestRefused):
    """401 or 403: no API key, one that is not known, or one that may not do this."""


class NotThere(RequestRefused):
    """404 or 410: it is not there, or not there any more."""


class RequestConflict(RequestRefused):
    """409: it does not go together with what was asked before."""


class TooManyRequests(ApiError):
    """429: the endpoint's queue or the key's limits are full."""


class EndpointFailed(ApiError):
    """5xx: a fault of the endpoint."""


class EndpointUnavailable(EndpointFailed):
    """502, 503 or 504: it passes; or a proxy of Ray Serve without a route: it has just started, or serves something
    else."""


class RedirectRefused(ApiError):
    """3xx: redirects are never followed, since the API key belongs to one origin."""


class NoAnswer(ClientError):
    """The endpoint could not be reached, or the connection was lost before it had answered."""


class UnexpectedAnswer(ClientError):
    """An answer that is none of this API."""


class SongUnreadable(ClientError):
    """A file that should be uploaded cannot be read, or changed while it was sent."""


class WebhookRefused(ClientError):
    """A webhook that is not signed by the endpoint, or an old one that is sent again."""


class BatchUnfinished(ClientError):
    """The batch had not ended in the time that the caller gave it; it goes on."""


class JobError(ClientError):
    """A job that did not succeed; `status` is the job as it was last seen."""

    def __init__(self, message: str, status: JobStatus) -> None:
        super().__init__(message, status)
        self.message, self.status = message, status

    def __str__(self) -> str:
        return self.message


class JobFailed(JobError):
    """The job failed; `status.problem` says why."""


class JobCancelled(JobError):
    """The job was cancelled."""


class JobUnfinished(JobError):
    """The job had not ended in the time that the caller gave it; it goes on."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: KeyRefused,
    403: KeyRefused,
    404: NotThere,
    409: RequestConflict,
    410: NotThere,
    429: TooManyRequests,
    502: EndpointUnavailable,
    503: EndpointUnavailable,
    504: EndpointUnavailable,
}

NO_ROUTES = "no_routes"
_PROXY = "/-/routes"
"""what a proxy of Ray Serve says to a path that it has no route for: to all, until it has them from the controller"""


def error_of(answer: httpx.Response, now: datetime) -> ApiError:
    """The error that an answer is, whose body has been read.

    Args:
        now: for a Retry-After that is a date.
    """
    status = answer.status_code
    retry_after = retry_after_of(answer.headers.get("Retry-After"), now)
    code, detail = f"http_{status}", answer.text[:_SHOWN].strip() or _phrase(status)
    if 300 <= status < 400:
        code, detail = "redirect", f"the endpoint redirects to '{answer.headers.get('Location')}'; make that base_url"
    elif answer.headers.get("Content-Type", "").startswith("application/problem+json"):
        try:
            problem = ProblemDetails.model_validate(json.loads(answer.content))
            code, detail = problem.code, problem.detail
        except (ValueError, ValidationError):  # said to be a problem and none: shown as it came
            code = f"http_{status}"
    elif status == 404 and _PROXY in answer.text:
        return EndpointUnavailable(status, NO_ROUTES, f"{detail} Is base_url right?", retry_after)
    return _class_of(status)(status, code, detail, retry_after, answer.headers.get("X-Request-Id"))


def _class_of(status: int) -> type[ApiError]:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status < 400:
        return RedirectRefused
    return RequestRefused if status < 500 else EndpointFailed


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "no reason given"


def retry_after_of(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After says, a number or a date, at least 0; None where it says nothing that can be read."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds())
