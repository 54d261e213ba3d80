"""Keys, scopes, limits, usage and audit over the application."""

import asyncio
import hashlib
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gatefold.config import ServeSettings
from gatefold.errors import DatabaseUnavailable
from gatefold.serve_settings import PriceSettings
from serve.access.audit import AuditLog
from serve.access.keys import KeyStore
from serve.access.scopes import _NEEDED, needed_scopes
from serve.jobs.database import with_database
from tests.unit.serve.conftest import bearer

WAIT = {"Prefer": "wait=10"}
SHORT = ServeSettings(poll_interval_s=0.05)


def ordered(client: Any, headers: dict[str, str], **fields: Any) -> Any:
    return client.post("/v1/covers", json={"song_id": "t3", "n": 1, "size": 64, **fields}, headers=headers)


def searched(client: Any, headers: dict[str, str]) -> Any:
    return client.post("/v1/searches", json={"song_id": "t3", "k": 2}, headers=headers)


def in_time(answers: Callable[[], int], wanted: int) -> None:
    """Returns once the status is the wanted one; fails after some seconds."""
    deadline = time.monotonic() + 5
    while (status := answers()) != wanted:
        assert time.monotonic() < deadline, f"still {status}, not {wanted}"
        time.sleep(0.02)


def change_keys(folder: Path, change: Callable[[KeyStore], Any]) -> Any:
    """As `gatefold keys` does, in another process."""
    return asyncio.run(with_database(f"sqlite:///{folder}/jobs.sqlite", lambda found: change(KeyStore(found))))


# ---- scopes ---------------------------------------------------------------------------------------------------------


def test_every_operation_that_needs_a_key_has_its_scopes_and_no_other_is_listed(endpoint: Callable[..., Any]) -> None:
    paths = endpoint().client.get("/openapi.json").json()["paths"]
    there = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods if method != "head"}
    needing = {operation for operation in there if " /v1/" in operation and " /v1/health/" not in operation}
    assert set(_NEEDED) == needing


def test_an_operation_that_nobody_listed_needs_admin() -> None:
    assert needed_scopes("GET /v1/new") == {"admin"}
    assert needed_scopes("HEAD /v1/tracks/{song_id}/cover") == {"search", "generate"}


@pytest.mark.parametrize(
    ("scope", "allowed", "refused"),
    [
        ("search", ["search", "track", "limits", "usage"], ["generate", "list", "withdraw", "audit"]),
        ("generate", ["generate", "list", "track", "limits", "usage"], ["search", "withdraw", "audit"]),
        ("admin", ["search", "generate", "list", "track", "limits", "usage", "audit", "withdraw"], []),
    ],
)
def test_a_key_may_do_what_its_scope_names_and_nothing_else(
    endpoint: Callable[..., Any], new_key: Callable[..., str], scope: str, allowed: list[str], refused: list[str]
) -> None:
    key = bearer(new_key(scope))
    client = endpoint().client
    calls: dict[str, Callable[[], Any]] = {
        "search": lambda: searched(client, key),
        "generate": lambda: ordered(client, key),
        "list": lambda: client.get("/v1/covers", headers=key),
        "track": lambda: client.get("/v1/tracks/t3", headers=key),
        "limits": lambda: client.get("/v1/limits", headers=key),
        "usage": lambda: client.get("/v1/usage", headers=key),
        "audit": lambda: client.get("/v1/audit", headers=key),
        "withdraw": lambda: client.delete("/v1/tracks/t5", headers=key),
    }
    for name in allowed:
        assert calls[name]().status_code in (200, 202, 204), name
    for name in refused:
        answer = calls[name]()
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), name
        assert "needs an API key with the scope" in answer.json()["detail"]


def test_the_description_names_the_scopes(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    new_key("search")
    paths = endpoint().client.get("/openapi.json").json()["paths"]
    assert paths["/v1/covers"]["post"]["x-scopes"] == ["generate"]
    assert paths["/v1/tracks/{song_id}"]["delete"]["x-scopes"] == ["admin"]
    assert paths["/v1/tracks/{song_id}/cover"]["head"]["x-scopes"] == ["generate", "search"]
    assert "security" not in paths["/v1/health/live"]["get"]


# ---- changes of keys ------------------------------------------------------------------------------------------------


def test_a_running_endpoint_learns_of_new_revoked_and_rotated_keys(
    endpoint: Callable[..., Any], new_key: Callable[..., str], tmp_path: Path
) -> None:
    client = endpoint(SHORT).client
    assert searched(client, {}).status_code == 200
    first, second = new_key("search"), new_key("search")
    in_time(lambda: searched(client, {}).status_code, 401)
    for secret in (first, second):
        in_time(lambda secret=secret: searched(client, bearer(secret)).status_code, 200)  # type: ignore[misc]
    change_keys(tmp_path, lambda store: store.revoke(first[:11]))
    _, rotated = change_keys(tmp_path, lambda store: store.rotate(second[:11]))
    in_time(lambda: searched(client, bearer(first)).status_code, 401)
    in_time(lambda: searched(client, bearer(second)).status_code, 401)
    assert searched(client, bearer(rotated)).status_code == 200
    assert searched(client, {}).status_code == 401


def test_keys_of_the_environment_and_of_the_database_are_accepted_side_by_side(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    secret = new_key("search")
    client = endpoint(keys=hashlib.sha256(b"static").hexdigest()).client
    assert [searched(client, bearer(one)).status_code for one in (secret, "static", "other")] == [200, 200, 401]


def test_an_expired_key_is_refused_and_told_so(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    expired = new_key("search", expires_at=datetime.now(UTC) - timedelta(seconds=1))
    answer = searched(endpoint().client, bearer(expired))
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["detail"] == f"API key '{expired[:11]}' is expired; ask the operator for another"


def test_covers_of_the_catalogue_are_public_until_there_is_a_key(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    secret = new_key("search")
    answer = endpoint().client.get("/v1/tracks/t3/cover", headers=bearer(secret))
    assert answer.status_code == 404  # without a picture; what is kept of it says the key
    assert "public" not in answer.headers["cache-control"]


# ---- own jobs -------------------------------------------------------------------------------------------------------


def test_a_caller_reads_and_cancels_its_own_jobs_and_fetches_their_images(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = bearer(new_key("generate"))
    e = endpoint()
    job = ordered(e.client, key | WAIT).json()
    path = f"/v1/covers/{job['job_id']}"
    for own in ("", "/events", "/images/0", "/images/0/sources", "/images/0/sources.png", "/manifest.json"):
        assert e.client.get(path + own, headers=key).status_code == 200, own
    e.generator.hold = True
    waiting = ordered(e.client, key).json()["job_id"]
    assert e.client.delete(f"/v1/covers/{waiting}", headers=key).json()["state"] == "cancelled"


def test_an_admin_reads_and_cancels_jobs_of_others_and_the_audit_says_so(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    theirs, admin = bearer(secret := new_key("generate")), bearer(boss := new_key("admin"))
    e = endpoint()
    e.generator.hold = True
    path = f"/v1/covers/{ordered(e.client, theirs).json()['job_id']}"
    assert e.client.get(path, headers=admin).status_code == 200
    assert e.client.delete(path, headers=admin).json()["state"] == "cancelled"
    assert e.client.get(path, headers=theirs).json()["state"] == "cancelled"
    entries = e.client.get("/v1/audit", headers=admin).json()["entries"]
    assert [(one["caller"], one["action"], one["target"], one["result"]) for one in entries] == [
        (boss[:11], "GET /v1/audit", "/v1/audit", None),
        (boss[:11], "DELETE /v1/covers/{job_id}", path, "200"),
        (boss[:11], "GET /v1/covers/{job_id}", path, "200"),
        ("gatefold", "create key", boss[:11], "done"),
        ("gatefold", "create key", secret[:11], "done"),
    ]


def test_a_rotated_key_keeps_its_jobs(
    endpoint: Callable[..., Any], new_key: Callable[..., str], tmp_path: Path
) -> None:
    secret = new_key("generate")
    client = endpoint(SHORT).client
    job_id = ordered(client, bearer(secret)).json()["job_id"]
    _, rotated = change_keys(tmp_path, lambda store: store.rotate(secret[:11]))
    in_time(lambda: client.get(f"/v1/covers/{job_id}", headers=bearer(rotated)).status_code, 200)


# ---- limits ---------------------------------------------------------------------------------------------------------


def test_every_answer_says_how_many_requests_are_left_and_the_one_too_many_when_to_come_back(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = bearer(new_key("search", "generate", requests_per_minute=4))
    client = endpoint().client
    answers = [
        searched(client, key),
        client.get("/v1/tracks/x", headers=key),
        client.delete("/v1/tracks/t3", headers=key),
        ordered(client, key | WAIT),
        searched(client, key),
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 403, 200, 429]
    assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["3", "2", "1", "0", "0"]
    assert {answer.headers["ratelimit-limit"] for answer in answers} == {"4"}
    assert {answer.headers["ratelimit-policy"] for answer in answers} == {"4;w=60"}
    refused = answers[-1]
    assert refused.json()["code"] == "rate_limited"
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
    assert client.get("/v1/health/live").status_code == 200


def test_a_key_without_limits_has_no_such_headers(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    answer = searched(endpoint().client, bearer(new_key("search")))
    assert [name for name in answer.headers if name.startswith("ratelimit")] == []


def test_one_job_too_many_is_refused_before_its_song_is_encoded(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = bearer(new_key("generate", jobs_at_once=1))
    e = endpoint()
    e.generator.hold = True
    first = ordered(e.client, key | {"Idempotency-Key": "k"})
    assert first.status_code == 202
    song = {"song": ("x.mp3", b"12345", "audio/mpeg")}
    refused = e.client.post("/v1/covers", files=song, data={"size": "64"}, headers=key)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_jobs")
    assert "retry-after" in refused.headers
    assert e.encoder.encoded == []
    again = ordered(e.client, key | {"Idempotency-Key": "k"})
    assert (again.status_code, again.json()["job_id"]) == (202, first.json()["job_id"])


def test_covers_beyond_those_of_a_month_are_refused_with_the_wait_until_its_end(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = bearer(new_key("generate", covers_per_month=3))
    client = endpoint().client
    assert ordered(client, key | WAIT, n=3).json()["state"] == "succeeded"
    refused = ordered(client, key)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")
    now = datetime.now(UTC)
    left_s = (now.replace(day=28) + timedelta(days=4)).replace(day=1, hour=0, minute=0, second=0, microsecond=0) - now
    assert int(refused.headers["retry-after"]) == pytest.approx(left_s.total_seconds(), abs=5)


# ---- usage ----------------------------------------------------------------------------------------------------------


def test_usage_of_a_key_by_day_with_its_cost(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    mine, other = bearer(secret := new_key("search", "generate")), bearer(new_key("search"))
    prices = PriceSettings(currency="EUR", search=0.5, cover=10, generation_s=100)
    client = endpoint(ServeSettings(prices=prices)).client
    for _ in range(2):
        searched(client, mine)
    client.post("/v1/searches", json={"song_id": "x"}, headers=mine)  # which is not found, and not counted
    client.post("/v1/embeddings", files={"song": ("x.mp3", b"12345")}, headers=mine)
    job = ordered(client, mine | WAIT, n=2).json()
    searched(client, other)
    answer = client.get("/v1/usage", headers=mine).json()
    today = datetime.now(UTC).date()
    assert (answer["first"], answer["last"], answer["currency"]) == (f"{today:%Y-%m}-01", f"{today}", "EUR")
    (day,) = answer["days"]
    assert (day["caller"], day["day"], day["searches"], day["covers"]) == (secret[:11], str(today), 3, 2)
    assert day["generation_s"] == pytest.approx(job["generation_s"], abs=1e-3)
    assert day["cost"] == pytest.approx(3 * 0.5 + 2 * 10 + 100 * day["generation_s"])


def test_usage_of_all_keys_is_for_admins(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    mine, admin = bearer(secret := new_key("search")), bearer(new_key("admin"))
    client = endpoint().client
    searched(client, mine)
    assert client.get("/v1/usage?all=true", headers=mine).status_code == 403
    answer = client.get("/v1/usage?all=true", headers=admin).json()
    assert [(day["caller"], day["searches"], day["cost"]) for day in answer["days"]] == [(secret[:11], 1, None)]
    assert client.get("/v1/usage", headers=admin).json()["days"] == []
    entries = client.get("/v1/audit", headers=admin).json()["entries"]
    assert [(one["action"], one["result"]) for one in entries[1:3]] == [
        ("GET /v1/usage?all=true", "200"), ("GET /v1/usage?all=true", "403")
    ]  # fmt: skip


def test_of_many_days_of_usage_the_last_year_is_given(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    for asked, first in (
        ("from=2020-01-01&to=2026-12-31", "2025-12-31"),
        ("from=2026-01-01&to=2026-12-31", "2026-01-01"),
        ("from=0001-01-01&to=0001-01-02", "0001-01-01"),
        ("from=2026-02-02&to=2026-02-01", "2026-02-02"),
    ):
        answer = client.get(f"/v1/usage?{asked}")
        assert (answer.status_code, answer.json()["first"], answer.json()["days"]) == (200, first, [])
    for wrong in ("yesterday", "0", "2026-1-1", "2026-02-30"):
        assert client.get(f"/v1/usage?from={wrong}").status_code == 422


def test_searches_are_written_down_when_the_endpoint_ends(
    endpoint: Callable[..., Any], new_key: Callable[..., str], tmp_path: Path
) -> None:
    from fastapi.testclient import TestClient

    from serve.access.usage import UsageCounter

    key = bearer(new_key("search"))
    with TestClient(endpoint(ServeSettings(poll_interval_s=3600)).client.app, base_url="http://localhost") as client:
        searched(client, key)
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    found = asyncio.run(with_database(url, lambda one: UsageCounter(one).read(None, date.min, date.max)))
    assert [day.searches for day in found] == [1]


# ---- audit ----------------------------------------------------------------------------------------------------------


def test_calls_of_an_admin_route_are_written_down_also_those_that_are_refused(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key, admin = bearer(secret := new_key("search")), bearer(boss := new_key("admin"))
    client = endpoint().client
    client.delete("/v1/tracks/t5", headers=key)
    client.delete("/v1/tracks/t5", headers=admin)
    client.delete("/v1/tracks/x", headers=admin)
    client.delete("/v1/tracks/t5")  # nobody knows whose that is
    entries = client.get("/v1/audit?limit=4", headers=admin).json()["entries"][1:]
    deleted = "DELETE /v1/tracks/{song_id}"
    assert [(one["caller"], one["action"], one["target"], one["result"]) for one in entries] == [
        (boss[:11], deleted, "/v1/tracks/x", "404"),
        (boss[:11], deleted, "/v1/tracks/t5", "204"),
        (secret[:11], deleted, "/v1/tracks/t5", "403"),
    ]
    more = client.get("/v1/audit", params={"before": entries[-1]["number"]}, headers=admin).json()["entries"]
    assert [one["action"] for one in more] == ["create key", "create key"]


def test_without_keys_the_audit_names_anyone(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    client.delete("/v1/tracks/t5")
    (_, entry) = client.get("/v1/audit").json()["entries"]
    assert (entry["caller"], entry["result"]) == ("anyone", "204")


def test_what_cannot_be_written_into_the_audit_is_not_done(
    endpoint: Callable[..., Any], new_key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> int:
        raise DatabaseUnavailable("the database of jobs does not answer")

    admin = bearer(new_key("admin"))
    e = endpoint()
    monkeypatch.setattr(AuditLog, "begin", away)
    answer = e.client.delete("/v1/tracks/t5", headers=admin)
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert "retry-after" in answer.headers
    assert e.active.optouts.song_ids == frozenset()
    assert searched(e.client, admin).status_code == 200


def test_what_was_done_is_answered_also_where_its_result_cannot_be_written(
    endpoint: Callable[..., Any], new_key: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise DatabaseUnavailable("the database of jobs does not answer")

    admin = bearer(new_key("admin"))
    client = endpoint().client
    with monkeypatch.context() as patch:
        patch.setattr(AuditLog, "finish", away)
        assert client.delete("/v1/tracks/t5", headers=admin).status_code == 204
    entry = client.get("/v1/audit", headers=admin).json()["entries"][1]
    assert (entry["target"], entry["result"]) == ("/v1/tracks/t5", None)
