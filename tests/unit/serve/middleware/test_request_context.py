"""The id of a request: sent or made, checked, answered; and the span that its trace begins with."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from serve.middleware.request_context import ID_MAX, RequestContextMiddleware
from serve.observability.carried import current
from tests.observed import Traced

TRACE, PARENT = "ab" * 16, "cd" * 8


def test_an_id_that_is_sent_is_answered_and_another_is_made_where_none_is(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    sent = client.get("/v1/limits", headers={"X-Request-Id": "order-77/a"})
    assert sent.headers.get_list("x-request-id") == ["order-77/a"]
    made = [client.get(path).headers["X-Request-Id"] for path in ("/v1/limits", "/v1/tracks/nobody", "/absent")]
    assert len({uuid.UUID(one) for one in made}) == 3


@pytest.mark.parametrize("unusable", ["x" * (ID_MAX + 1), "two words", "ä", "a\tb", ""])
def test_an_id_that_cannot_be_used_is_refused_and_not_repeated(endpoint: Callable[..., Any], unusable: str) -> None:
    answer = endpoint().client.get("/v1/limits", headers={"X-Request-Id": unusable.encode("latin-1")})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")
    assert f"one of 1 to {ID_MAX} visible ASCII characters" in answer.json()["detail"]
    assert answer.headers["X-Request-Id"] != unusable
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_two_ids_are_refused(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.get("/v1/limits", headers=[("X-Request-Id", "a"), ("X-Request-Id", "b")])
    assert answer.status_code == 400


@pytest.mark.parametrize("address", ["/v1/covers/%00", "/v1/batches/a%00b", "/v1/covers?after=%00", "/v1/tracks/%00"])
def test_an_address_with_a_character_that_no_database_takes_is_refused(
    endpoint: Callable[..., Any], address: str
) -> None:
    answer = endpoint().client.get(address)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_input")


def test_an_id_as_long_as_allowed_is_taken(endpoint: Callable[..., Any]) -> None:
    longest = "~" * ID_MAX
    assert endpoint().client.get("/v1/limits", headers={"X-Request-Id": longest}).headers["X-Request-Id"] == longest


def test_behind_a_proxy_that_answers_the_id_none_is_added() -> None:
    async def say(_: Request) -> JSONResponse:
        return JSONResponse(current().record())

    app = RequestContextMiddleware(Starlette(routes=[Route("/v1/say", say)]), answers_id=False)
    answer = TestClient(app).get("/v1/say", headers={"X-Request-Id": "r"})
    assert "x-request-id" not in answer.headers
    assert answer.json() == {"request_id": "r"}


def test_a_request_is_a_span_of_the_trace_that_it_names_under_the_name_of_its_route(
    endpoint: Callable[..., Any], traced: Traced
) -> None:
    client = endpoint().client
    client.get("/v1/tracks/t3", headers={"traceparent": f"00-{TRACE}-{PARENT}-00", "X-Request-Id": "r-1"})
    (seen,) = traced.spans
    assert (seen.name, seen.kind) == ("GET /v1/tracks/{song_id}", "server")
    assert (seen.trace, seen.parent, seen.failure) == (TRACE, PARENT, None)
    assert seen.attributes == {
        "gatefold.request_id": "r-1",
        "http.request.method": "GET",
        "http.route": "/v1/tracks/{song_id}",
        "http.response.status_code": 200,
    }


def test_a_parent_that_cannot_be_read_begins_a_trace_and_what_breaks_has_failed(
    endpoint: Callable[..., Any], traced: Traced
) -> None:
    client = endpoint().client
    client.post("/v1/embeddings", files={"song": ("x.mp3", b"bug")}, headers={"traceparent": "x" * 9000})
    client.get("/v1/tracks/t3/cover", headers={"traceparent": ""})
    broken, absent = traced.spans
    assert (broken.parent, broken.failure) == (None, "RuntimeError")
    assert (absent.parent, absent.failure, absent.attributes["http.response.status_code"]) == (None, None, 404)


def test_health_and_the_page_are_no_traces(endpoint: Callable[..., Any], traced: Traced) -> None:
    client = endpoint().client
    for path in ("/v1/health/live", "/v1/health/ready", "/", "/openapi.json"):
        client.get(path)
    assert traced.spans == []
