"""The description says what the endpoint does: as it is written, and as schemathesis tries it with a key."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gatefold.images.pixels import encode_picture
from tests.listening import listening
from tests.openapi.run import faults

KEY = "open sesame"
HASH = hashlib.sha256(KEY.encode()).hexdigest()


def operations(client: Any) -> dict[str, dict[str, Any]]:
    paths = client.get("/openapi.json").json()["paths"]
    return {f"{method.upper()} {path}": one for path, methods in paths.items() for method, one in methods.items()}


def test_problems_are_described_under_their_media_type(endpoint: Callable[..., Any]) -> None:
    for name, operation in operations(endpoint().client).items():
        for status in ("4XX", "5XX"):
            assert list(operation["responses"][status]["content"]) == ["application/problem+json"], name


def test_what_is_no_json_is_described_as_what_it_is(endpoint: Callable[..., Any]) -> None:
    described = operations(endpoint().client)

    def content(name: str, status: str = "200") -> list[str]:
        return list(described[name]["responses"][status].get("content", {}))

    image = "/v1/covers/{job_id}/images/{index}"
    assert content(f"GET {image}") == content(f"GET {image}", "206") == ["image/png", "image/jpeg", "image/webp"]
    assert content(f"GET {image}/sources.png") == ["image/png"]
    assert content("GET /v1/tracks/{song_id}/cover") == ["image/jpeg"]
    assert content("GET /v1/covers/{job_id}/events") == ["text/event-stream"]
    assert content(f"HEAD {image}") == content("GET /v1/covers/{job_id}/events", "204") == []
    assert {"ETag", "Accept-Ranges", "Cache-Control"} <= set(described[f"GET {image}"]["responses"]["200"]["headers"])


def test_both_ends_of_a_job_are_described(endpoint: Callable[..., Any]) -> None:
    responses = operations(endpoint().client)["POST /v1/covers"]["responses"]
    for status in ("200", "202"):
        assert responses[status]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobView"}
        waits = {"Retry-After"} if status == "202" else set()
        assert set(responses[status]["headers"]) == {"Location", "Preference-Applied", "Idempotent-Replayed"} | waits


def test_a_batch_that_is_sent_again_is_described(endpoint: Callable[..., Any]) -> None:
    operation = operations(endpoint().client)["POST /v1/batches"]
    (key,) = [one for one in operation["parameters"] if one["in"] == "header"]
    assert (key["name"].lower(), key["required"]) == ("idempotency-key", False)
    assert set(operation["responses"]["202"]["headers"]) == {"Location", "Idempotent-Replayed"}


def test_security_is_described_where_it_is_asked_for_and_nowhere_else(endpoint: Callable[..., Any]) -> None:
    assert [name for name, one in operations(endpoint().client).items() if "security" in one] == []
    for name, operation in operations(endpoint(keys=HASH).client).items():
        asked = "/v1/" in name and "/v1/health/" not in name
        assert ("security" in operation) == asked, name


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/tracks/t1", "GET, DELETE"),
        ("/v1/tracks/t1/cover", "GET, HEAD"),
        ("/v1/tracks/a%2Fb/cover", "GET, HEAD"),
        ("/v1/covers", "GET, POST"),
        ("/v1/covers/x", "GET, DELETE"),
        ("/v1/covers/x/events", "GET"),
        ("/v1/limits", "GET"),
        ("/v1/health/live", "GET"),
        ("/static/main.js", "GET, HEAD"),
        ("/docs/assets/swagger-ui.css", "GET, HEAD"),
        ("/", "GET, HEAD"),
    ],
)
def test_a_method_that_there_is_not_is_answered_with_those_that_there_are(
    endpoint: Callable[..., Any], path: str, allowed: str
) -> None:
    answer = endpoint().client.request("PATCH", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_path_that_ends_in_cover_withdraws_no_track(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    assert e.client.delete("/v1/tracks/t1/cover").status_code == 405
    assert e.active.optouts.song_ids == frozenset()


@pytest.mark.parametrize("body", [{"k": "5"}, {"k": True}, {"where": "{}"}, {"genres": "jazz"}])
def test_json_has_the_types_of_the_description(endpoint: Callable[..., Any], body: dict[str, Any]) -> None:
    answer = endpoint().client.post("/v1/searches", json={"song_id": "t3", **body})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{next(iter(body))} = ")


def test_a_truth_value_of_a_form_is_written_as_in_json(endpoint: Callable[..., Any]) -> None:
    client, song = endpoint().client, {"song": ("a.wav", b"12345")}
    for value, status in (("true", 200), ("false", 200), ("yes", 422), ("1", 422)):
        assert client.post("/v1/searches", files=song, data={"spectrogram": value}).status_code == status


@pytest.mark.slow
def test_with_a_key_the_endpoint_does_what_its_description_says(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "c.png"
    path.write_bytes(encode_picture(np.zeros((3, 64, 64), np.uint8), 400, "png"))
    with listening(endpoint(keys=HASH, cover_uri=path.as_uri()).build()) as url:
        assert faults(url, tmp_path, examples=5, key=KEY, known={}) == ""
