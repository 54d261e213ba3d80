"""OWASP API Security Top 10 (2023), one test for each item, named by it.

That of API10, unsafe consumption of APIs, is in webhooks/test_deliverer.py: receivers of webhooks are the only APIs of
others that the endpoint calls.
"""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from gatefold.config import ServeSettings
from tests.unit.serve.conftest import bearer

ORDER = {"song_id": "t3", "n": 1, "size": 64}
SONG = {"song": ("x.mp3", b"12345", "audio/mpeg")}


def test_api1_broken_object_level_authorization(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """A job of another key is as unknown as one that there is not, by every route."""
    mine, theirs = bearer(new_key("search", "generate")), bearer(new_key("search", "generate"))
    client = endpoint().client
    job_id = client.post("/v1/covers", json=ORDER, headers=theirs | {"Prefer": "wait=10"}).json()["job_id"]
    below = ["", "/events", "/images/0", "/images/0/sources", "/images/0/sources.png", "/manifest.json"]
    for known, status in ((job_id, 404), ("0" * 32, 404)):
        calls = [client.get(f"/v1/covers/{known}{path}", headers=mine) for path in below]
        calls.append(client.delete(f"/v1/covers/{known}", headers=mine))
        export = {"profile": "bandcamp", "title": "Blue"}
        calls.append(client.post(f"/v1/covers/{known}/images/0/export", json=export, headers=mine))
        assert {(answer.status_code, answer.json()["code"]) for answer in calls} == {(status, "unknown_job")}
        assert {answer.json()["detail"].replace(known, "ID") for answer in calls} == {
            "job 'ID' is not known; a job is deleted with its results 86400 s after it ended (serve.results_kept_s)"
        }
    assert client.get(f"/v1/covers/{job_id}", headers=theirs).json()["state"] == "succeeded"


def test_api2_broken_authentication(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """No key, another's beginning, an expired one, a digest, another scheme or place: none of them lets in."""
    secret = new_key("search")
    expired = new_key("search", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    digest = hashlib.sha256(secret.encode()).hexdigest()
    client = endpoint().client
    shown = [
        {}, bearer(""), bearer(secret[:11]), bearer(secret[:-1]), bearer(digest), bearer(expired),
        bearer(f"{expired[:11]}_{secret[12:]}"), {"Authorization": f"Basic {secret}"}, {"X-Api-Key": secret},
    ]  # fmt: skip
    for headers in shown:
        answer = client.get("/v1/tracks/t3", headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), headers
        assert secret not in answer.text
    assert client.get(f"/v1/tracks/t3?api_key={secret}").status_code == 401
    assert client.get("/v1/tracks/t3", headers=bearer(secret)).status_code == 200


def test_api3_broken_object_property_level_authorization(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    """What a caller may not set is refused, and what it may not know is in no answer."""
    secret = new_key("search", "generate")
    client = endpoint().client
    for name in ("priority", "caller", "state", "key_prefix", "turn"):
        assert client.post("/v1/covers", json={**ORDER, name: "1"}, headers=bearer(secret)).status_code == 422, name
        refused = client.post("/v1/covers", files=SONG, data={name: "1"}, headers=bearer(secret))
        assert refused.status_code == 422, name
    job = client.post("/v1/covers", json=ORDER, headers=bearer(secret)).json()
    assert {"caller", "priority", "token", "runner", "lease_until", "turn"} & set(job) == set()
    digest = hashlib.sha256(secret.encode()).hexdigest()
    for answer in (client.get("/v1/usage", headers=bearer(secret)), client.get("/v1/limits", headers=bearer(secret))):
        assert digest not in answer.text
        assert secret not in answer.text


def test_api4_unrestricted_resource_consumption(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """Bytes, covers, matches, jobs and requests a minute all have a limit, and going over it does no work."""
    key = bearer(new_key("search", "generate", requests_per_minute=6))
    e = endpoint(ServeSettings(upload_max_bytes=10, n_max=2, k_max=5, jobs_max=1))
    e.generator.hold = True
    client = e.client
    answers = [
        client.post("/v1/searches", files={"song": ("x.mp3", b"1" * 11)}, headers=key),
        client.post("/v1/covers", json={**ORDER, "n": 3}, headers=key),
        client.post("/v1/searches", json={"song_id": "t3", "k": 6}, headers=key),
        client.post("/v1/covers", json=ORDER, headers=key),
        client.post("/v1/covers", json=ORDER, headers=key),
        client.get("/v1/limits", headers=key),
        client.get("/v1/limits", headers=key),
    ]
    assert [answer.status_code for answer in answers] == [413, 422, 422, 202, 429, 200, 429]
    assert [answer.json().get("code") for answer in answers[4::2]] == ["overloaded", "rate_limited"]
    assert e.encoder.encoded == []


def test_api5_broken_function_level_authorization(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """What only admins may is refused to every other key, whatever method or spelling it is tried by."""
    key = bearer(new_key("search", "generate"))
    e = endpoint()
    tried = [
        ("DELETE", "/v1/tracks/t5"), ("DELETE", "/v1/tracks/t%35"), ("GET", "/v1/audit"), ("GET", "/v1/usage?all=true")
    ]  # fmt: skip
    assert [e.client.request(*call, headers=key).status_code for call in tried] == [403] * 4
    unknown = [("GET", "/v1/keys"), ("POST", "/v1/keys"), ("GET", "/v1/admin"), ("DELETE", "/v1//tracks/t5")]
    assert [e.client.request(*call, headers=key).status_code for call in unknown] == [404] * 4
    override = {"X-HTTP-Method-Override": "DELETE"}
    assert e.client.get("/v1/tracks/t5", headers=key | override).status_code == 200
    assert e.active.optouts.song_ids == frozenset()


def test_api6_unrestricted_access_to_sensitive_business_flows(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    """Making covers in bulk is bounded by key: at once, and in a month, also where requests are repeated."""
    once, monthly = bearer(new_key("generate", jobs_at_once=1)), bearer(new_key("generate", covers_per_month=2))
    e = endpoint()
    e.generator.hold = True

    def codes(key: dict[str, str]) -> list[Any]:
        return [e.client.post("/v1/covers", json=ORDER, headers=key).json().get("code") for _ in range(4)]

    assert codes(once) == [None] + ["too_many_jobs"] * 3
    assert codes(monthly) == [None] * 2 + ["quota_exceeded"] * 2


def test_api7_server_side_request_forgery(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """The one address that a request names is that of a webhook: https and public. Songs are uploaded, or known."""
    key = bearer(new_key("search", "generate"))
    client = endpoint().client
    for name in ("url", "song_url", "audio_uri", "cover_uri", "callback"):
        fields = {**ORDER, name: "http://169.254.169.254/latest/meta-data/"}
        assert client.post("/v1/covers", json=fields, headers=key).status_code == 422, name
    for song_id in ("http://169.254.169.254/x", "file:///etc/passwd", "s3://bucket/x"):
        assert client.post("/v1/searches", json={"song_id": song_id}, headers=key).json()["code"] == "unknown_track"
    for host in ("169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "2130706433"):
        for scheme in ("https", "http"):
            fields = {**ORDER, "webhook_url": f"{scheme}://{host}/hook"}
            assert client.post("/v1/covers", json=fields, headers=key).status_code == 422, fields

def test_api8_security_misconfiguration(endpoint: Callable[..., Any]) -> None:
    """Other origins read nothing, other names are not answered, and a fault shows no traceback."""
    client = endpoint().client
    answer = client.get("/v1/tracks/t3", headers={"Origin": "https://elsewhere.example"})
    assert [name for name in answer.headers if name.startswith("access-control")] == []
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/v1/limits", headers={"Host": "elsewhere.example"}).status_code == 421
    fault = client.post("/v1/searches", files={"song": ("x.mp3", b"bug")})
    assert (fault.status_code, fault.json()["code"]) == (500, "internal_error")
    assert "Traceback" not in fault.text
    assert "10.0.0.7" not in fault.text
    assert client.request("TRACE", "/v1/limits").status_code == 405


def test_api9_improper_inventory_management(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    """Every route is described, under one version, and asks for a key; what is not described is not there."""
    new_key("search")
    client = endpoint().client
    paths = client.get("/openapi.json").json()["paths"]
    open_to_all = {"/v1/health/live", "/v1/health/ready", "/examples", "/examples/{name}", "/examples/{file}"}
    assert [path for path in paths if not path.startswith("/v1/") and path not in open_to_all] == []
    places = {"{song_id}": "t3", "{job_id}": "x", "{index}": "0"}
    for path, methods in paths.items():
        for place, value in places.items():
            path = path.replace(place, value)
        for method in methods:
            if path not in open_to_all and path.startswith("/v1/"):
                assert client.request(method, path).status_code == 401, f"{method} {path}"
    for path in ("/v0/limits", "/v2/limits", "/metrics", "/debug", "/v1", "/.env", "/openapi.yaml"):
        assert client.get(path).status_code == 404, path
