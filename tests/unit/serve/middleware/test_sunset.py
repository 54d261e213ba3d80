"""Routes that end say so, in each answer and in the description; a client is warned."""

from datetime import UTC, datetime

import pytest
from fastapi import FastAPI, HTTPException
from starlette.testclient import TestClient

from gatefold.client import Client
from serve.api.description import with_endings
from serve.middleware.sunset import Ending, SunsetMiddleware
from tests.scripted_server import Reply, scripted

ENDING = Ending(datetime(2027, 1, 1, tzinfo=UTC), datetime(2028, 1, 1, tzinfo=UTC), "/v2/things/{name}")
ENDINGS = {"GET /v1/things/{name}": ENDING}


def app() -> FastAPI:
    made = FastAPI()

    @made.get("/v1/things/{name}")
    def get(name: str) -> str:
        if name == "none":
            raise HTTPException(404)
        return name

    @made.delete("/v1/things/{name}")
    def delete(name: str) -> str:
        return name

    made.add_middleware(SunsetMiddleware, endings=ENDINGS)
    return made


@pytest.mark.parametrize(("path", "status"), [("/v1/things/a", 200), ("/v1/things/none", 404)])
def test_each_answer_says_since_when_until_when_and_what_instead(path: str, status: int) -> None:
    answer = TestClient(app()).get(path)
    assert answer.status_code == status
    assert answer.headers["Deprecation"] == "@1798761600"
    assert answer.headers["Sunset"] == "Sat, 01 Jan 2028 00:00:00 GMT"
    assert answer.headers["Link"] == '</v2/things/{name}>; rel="successor-version"'


def test_other_methods_and_paths_say_nothing() -> None:
    for answer in (TestClient(app()).delete("/v1/things/a"), TestClient(app()).get("/v1/nothing")):
        assert not {"deprecation", "sunset", "link"} & set(answer.headers)


def test_the_description_marks_them() -> None:
    paths = with_endings(app().openapi(), ENDINGS)["paths"]["/v1/things/{name}"]
    assert paths["get"]["deprecated"] is True
    assert "deprecated" not in paths["delete"]


def test_the_client_warns_of_a_route_that_ends() -> None:
    body = b'{"status": "ready"}'
    headers = {"Sunset": "Sat, 01 Jan 2028 00:00:00 GMT"}
    with (
        scripted(Reply(200, body, headers=headers)) as server,
        Client(server.url) as client,
        pytest.warns(FutureWarning, match=r"GET /v1/health/ready ends on Sat, 01 Jan 2028 00:00:00 GMT"),
    ):
        assert client.health().status == "ready"
