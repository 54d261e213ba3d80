import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from gatefold.errors import GatefoldError, IndexNotReady, InputError, Overloaded, Unauthorized, UndecodableAudio
from serve.api import problems
from serve.api.requests import SearchUpload
from serve.middleware.security_headers import SecurityHeadersMiddleware


def client_that_raises(error: Exception) -> TestClient:
    app = FastAPI()
    problems.install(app)
    app.add_middleware(SecurityHeadersMiddleware)

    @app.get("/broken")
    async def broken(limit: int = 1) -> None:  # noqa: ARG001 - what the framework checks
        raise error

    return TestClient(app)


def test_an_error_of_ours_becomes_a_problem_with_its_code_and_message() -> None:
    answer = client_that_raises(UndecodableAudio("song 'x.mp3': cannot be decoded")).get("/broken")
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "Undecodable audio",
        "status": 415,
        "detail": "song 'x.mp3': cannot be decoded",
        "code": "undecodable_audio",
        "instance": "/broken",
    }


@pytest.mark.parametrize(
    ("error", "header", "value"),
    [
        (Overloaded("full", 7), "Retry-After", "7"),
        (IndexNotReady("soon"), "Retry-After", str(problems.RETRY_AFTER_S)),
        (Unauthorized("who?"), "WWW-Authenticate", "Bearer"),
    ],
)
def test_errors_that_pass_say_when_to_come_back(error: GatefoldError, header: str, value: str) -> None:
    answer = client_that_raises(error).get("/broken")
    assert answer.status_code == error.status
    assert answer.headers[header] == value


def test_an_unforeseen_error_shows_nothing_of_itself() -> None:
    answer = client_that_raises(RuntimeError("password at 10.0.0.7")).get("/broken")
    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "10.0.0.7" not in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_unknown_routes_and_methods_are_problems_too() -> None:
    client = client_that_raises(RuntimeError())
    absent = client.get("/nowhere")
    assert (absent.status_code, absent.json()["code"], absent.json()["instance"]) == (404, "not_found", "/nowhere")
    wrong = client.post("/broken")
    assert (wrong.status_code, wrong.json()["code"], wrong.headers["allow"]) == (405, "method_not_allowed", "GET")


def test_a_refused_parameter_is_named_with_its_value_and_what_is_allowed() -> None:
    answer = client_that_raises(RuntimeError()).get("/broken?limit=many")
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_input"
    assert answer.json()["detail"].startswith("limit = 'many': Input should be a valid integer")


@pytest.mark.parametrize("error", [InputError("k = 0"), HTTPException(400, "no JSON")])
def test_one_code_has_one_title_whoever_refuses(error: Exception) -> None:
    by_us, by_framework = (client_that_raises(error).get(path).json() for path in ("/broken", "/broken?limit=many"))
    assert by_us["code"] == by_framework["code"] == "invalid_input"
    assert by_us["title"] == by_framework["title"] == "Invalid input"


def test_a_long_refused_value_is_cut() -> None:
    answer = client_that_raises(RuntimeError()).get("/broken?limit=" + "9x" * 5000)
    assert len(answer.json()["detail"]) < 250


def test_a_long_message_is_cut() -> None:
    answer = client_that_raises(InputError("who = " + "x" * 1_000_000)).get("/broken")
    assert len(answer.json()["detail"]) == 2_001


def test_an_unknown_field_is_called_that() -> None:
    with pytest.raises(ValidationError) as refused:
        SearchUpload.model_validate({"kk": "5"})
    assert problems.explain(list(refused.value.errors())) == "kk = '5': there is no such field"
