import pickle
from datetime import UTC, datetime

import httpx
import pytest

from gatefold.client import errors
from gatefold.client.errors import ApiError, ClientError, NoAnswer, UnexpectedAnswer, error_of, retry_after_of
from gatefold.client.retries import RetryPolicy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = RetryPolicy(attempts=4, first_s=1, longest_s=3, retry_after_max_s=60)


def highest(_: float, high: float) -> float:
    return high


def lowest(low: float, _: float) -> float:
    return low


def busy(retry_after: float | None = None, status: int = 503) -> ApiError:
    return ApiError(status, "unavailable", "later", retry_after)


def test_the_pause_doubles_up_to_a_limit_and_ends_with_the_attempts() -> None:
    assert [POLICY.pause(failures, busy(), highest) for failures in (1, 2, 3, 4)] == [1, 2, 3, None]
    assert [POLICY.pause(failures, busy(), lowest) for failures in (1, 2, 3)] == [0.5, 1, 1.5]


def test_a_retry_after_is_never_undercut_and_one_too_long_is_not_waited_for() -> None:
    assert POLICY.pause(1, busy(7), lowest) == 7
    assert POLICY.pause(1, busy(7), highest) == 7.5
    assert POLICY.pause(1, busy(61), lowest) is None


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_passes_is_tried_again(status: int) -> None:
    assert POLICY.pause(1, busy(status=status), highest) == 1


@pytest.mark.parametrize(
    "error", [*(busy(status=status) for status in (301, 400, 401, 404, 409, 413, 422, 500)), UnexpectedAnswer("x")]
)
def test_what_stays_is_not(error: ClientError) -> None:
    assert POLICY.pause(1, error, highest) is None


def test_a_proxy_that_knows_no_routes_yet_is_tried_again() -> None:
    said = "Path '/v1/covers' not found. Ping http://.../-/routes for available routes."
    error = error_of(httpx.Response(404, text=said), NOW)
    assert (error.status, error.code) == (404, "no_routes")
    assert POLICY.pause(1, error, highest) == 1


def test_no_answer_is_tried_again() -> None:
    assert POLICY.pause(1, NoAnswer("gone"), highest) == 1


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"first_s": -1}, {"longest_s": float("nan")}])
def test_a_policy_that_cannot_be_meant_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("5", 5), (" 5 ", 5), ("Thu, 01 Jan 2026 00:01:00 GMT", 60), ("Wed, 31 Dec 2025 23:00:00 GMT", 0),
     ("soon", None), ("-3", None), (None, None), ("1e3", None)],
)  # fmt: skip
def test_a_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_of(header, NOW) == seconds


@pytest.mark.parametrize(
    ("status", "kind"),
    [(302, errors.RedirectRefused), (400, errors.RequestRefused), (401, errors.KeyRefused), (403, errors.KeyRefused),
     (404, errors.NotThere), (409, errors.RequestConflict), (410, errors.NotThere), (422, errors.RequestRefused),
     (429, errors.TooManyRequests), (500, errors.EndpointFailed), (503, errors.EndpointUnavailable)],
)  # fmt: skip
def test_a_status_has_its_exception(status: int, kind: type[ApiError]) -> None:
    problem = {"title": "T", "status": status, "detail": "why", "code": "some_code", "instance": "/", "more": 1}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "3", "X-Request-Id": "r9"}
    error = error_of(httpx.Response(status, json=problem, headers=headers), NOW)
    assert type(error) is kind
    assert (error.status, error.retry_after, error.request_id) == (status, 3, "r9")
    if status != 302:
        assert (error.code, error.detail, str(error)) == ("some_code", "why", f"{status} some_code: why")


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(502, text="<html>bad gateway</html>"),
     httpx.Response(502, content=b"[1]", headers={"Content-Type": "application/problem+json"}),
     httpx.Response(502, content=b"\xff{", headers={"Content-Type": "application/problem+json"})],
)  # fmt: skip
def test_the_answer_of_a_proxy_is_an_error_too(answer: httpx.Response) -> None:
    error = error_of(answer, NOW)
    assert (error.code, type(error)) == ("http_502", errors.EndpointUnavailable)
    assert error.detail


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.TooManyRequests(429, "overloaded", "full", 5.0, "r1")))  # noqa: S301 - our own
    assert (error.status, error.code, error.retry_after, error.request_id) == (429, "overloaded", 5.0, "r1")
