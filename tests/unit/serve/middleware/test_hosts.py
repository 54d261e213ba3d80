import gzip
from collections.abc import Callable
from typing import Any

import pytest

from gatefold.config import ServeSettings
from serve.middleware.hosts import names_of

PATHS = ["/", "/v1/limits", "/v1/health/live", "/v1/tracks/t1", "/openapi.json", "/docs", "/nowhere"]


@pytest.mark.parametrize("path", PATHS)
def test_a_name_that_is_not_the_endpoints_own_is_refused_everywhere(endpoint: Callable[..., Any], path: str) -> None:
    answer = endpoint().client.get(path, headers={"Host": "rebound.example.org:8000"})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "'rebound.example.org'" in answer.json()["detail"]
    assert "serve.hosts" in answer.json()["detail"]


def test_a_song_sent_to_a_wrong_name_is_not_encoded(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    song = {"song": ("a.wav", b"12345")}
    assert e.client.post("/v1/searches", files=song, headers={"Host": "elsewhere"}).status_code == 421
    assert e.encoder.encoded == []


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:9000", "[::1]:8000", "a.localhost"]
)
def test_loopback_names_are_known_with_any_port(endpoint: Callable[..., Any], host: str) -> None:
    assert endpoint().client.get("/v1/limits", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ("covers.example.org", "Covers.Example.org:443", 200),
        ("covers.example.org", "example.org", 421),
        ("*.example.org", "covers.example.org", 200),
        ("*.example.org", "a.b.example.org", 200),
        ("*.example.org", "example.org", 421),
        ("*.example.org", "evilexample.org", 421),
        ("10.0.0.7", "10.0.0.7:8000", 200),
        ("10.0.0.7", "10.0.0.8:8000", 421),
        ("0.0.0.0", "10.0.0.8:8000", 200),
        ("0.0.0.0", "[fe80::1]:8000", 200),
        ("0.0.0.0", "rebound.example.org", 421),
        ("0.0.0.0", "10.0.0.8.example.org", 421),
        ("*", "anything.example.org", 200),
    ],
)
def test_names_are_allowed_by_the_list(endpoint: Callable[..., Any], allowed: str, host: str, status: int) -> None:
    client = endpoint(ServeSettings(hosts=[allowed])).client
    assert client.get("/v1/limits", headers={"Host": host}).status_code == status


@pytest.mark.parametrize("host", ["", "a b", "http://localhost", "localhost:port", "[localhost]", "localhost/x", "a@b"])
def test_a_host_that_is_none_is_a_bad_request(endpoint: Callable[..., Any], host: str) -> None:
    answer = endpoint().client.get("/v1/limits", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_what_the_endpoint_listens_on_is_allowed() -> None:
    assert names_of("10.0.0.7") == ["10.0.0.7"]
    assert {"0.0.0.0", "::"} < set(names_of("0.0.0.0"))


def test_no_other_origin_may_read_the_answers_unless_a_setting_names_it(endpoint: Callable[..., Any]) -> None:
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    closed = endpoint().client
    assert closed.options("/v1/searches", headers=asks).status_code == 405
    assert "access-control-allow-origin" not in closed.get("/v1/limits", headers=asks).headers
    client = endpoint(ServeSettings(cors_origins=["https://example.org"])).client
    asked = client.options("/v1/covers", headers=asks | {"Access-Control-Request-Headers": "idempotency-key"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://example.org")
    answer = client.get("/v1/limits", headers={"Origin": "https://example.org"})
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    assert "Location" in answer.headers["access-control-expose-headers"]
    other = client.get("/v1/limits", headers={"Origin": "https://elsewhere.org"})
    assert "access-control-allow-origin" not in other.headers


def test_json_is_compressed_and_pictures_and_events_are_not(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    with client.stream("GET", "/openapi.json", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join(answer.iter_raw())
    assert answer.headers["content-encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["vary"]
    assert b"openapi" in gzip.decompress(raw)
    job = client.post("/v1/covers", json={"song_id": "t3", "n": 1}, headers={"Prefer": "wait=10"}).json()
    for path in (job["images"][0]["url"], f"/v1/covers/{job['job_id']}/events"):
        assert "content-encoding" not in client.get(path, headers={"Accept-Encoding": "gzip"}).headers
