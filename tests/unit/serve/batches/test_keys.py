"""Batches of callers with keys: whose they are, what their lines need, and what counts of them."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.serve.batches.test_routes import TYPE, ended, line, read, sent
from tests.unit.serve.conftest import bearer


class With:
    """A client that shows a key with every request."""

    def __init__(self, client: Any, key: str) -> None:
        self._client, self._key = client, bearer(key)

    def get(self, path: str) -> Any:
        return self._client.get(path, headers=self._key)

    def delete(self, path: str) -> Any:
        return self._client.delete(path, headers=self._key)

    def post(self, path: str, content: str, headers: dict[str, str]) -> Any:
        return self._client.post(path, content=content, headers=headers | self._key)


def test_a_batch_is_seen_by_its_own_key_and_by_admins_whom_the_audit_names(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    keys = [new_key(scope) for scope in ("search", "search", "admin")]
    client = endpoint().client
    own, other, admin = (With(client, key) for key in keys)
    path = sent(own, line("a", "/v1/searches", k=2)).headers["location"]
    assert ended(own, path)["counts"]["succeeded"] == 1
    for tail in ("", "/output", "/errors"):
        assert other.get(path + tail).status_code == 404
        assert admin.get(path + tail).status_code == 200
    assert other.delete(path).status_code == 404
    seen = [entry["target"] for entry in admin.get("/v1/audit").json()["entries"]]
    assert {path, f"{path}/output", f"{path}/errors"} <= set(seen)


def test_a_line_needs_the_scope_of_its_call(endpoint: Callable[..., Any], new_key: Callable[..., str]) -> None:
    lines = [line("a", "/v1/searches", k=2), line("b")]
    searching, both = new_key("search"), new_key("search", "generate")
    client = endpoint().client
    refused = sent(With(client, searching), *lines)
    assert refused.status_code == 422
    assert refused.json()["lines"] == [
        {"line": 2, "detail": "POST /v1/covers needs an API key with the scope generate"}
    ]
    assert sent(With(client, both), *lines).status_code == 202


def test_searches_and_covers_of_a_batch_are_in_the_usage_of_its_key(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = new_key("search", "generate")
    own = With(endpoint().client, key)
    ended(own, sent(own, line("a", "/v1/searches", k=2), line("b", n=2)).headers["location"])
    (day,) = own.get("/v1/usage").json()["days"]
    assert (day["searches"], day["covers"]) == (1, 2)


def test_a_line_beyond_the_covers_of_the_month_is_refused_and_the_others_are_not(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    key = new_key("generate", covers_per_month=2)
    own = With(endpoint().client, key)
    batch = ended(own, sent(own, line("a", n=2), line("b", n=1), headers=TYPE).headers["location"])
    assert (batch["counts"]["succeeded"], batch["counts"]["failed"]) == (1, 1)
    (refused,) = read(own, batch["errors_url"])
    assert (refused["response"]["status_code"], refused["response"]["body"]["code"]) == (429, "quota_exceeded")


def test_the_jobs_of_a_batch_carry_the_name_of_its_key(
    endpoint: Callable[..., Any], new_key: Callable[..., str], tmp_path: Path
) -> None:
    key = new_key("generate")
    own = With(endpoint().client, key)
    ended(own, sent(own, line("a", n=1)).headers["location"])
    with sqlite3.connect(tmp_path / "jobs.sqlite") as database:
        (spec,) = database.execute("SELECT spec FROM jobs").fetchone()
    assert json.loads(spec)["carried"]["key_prefix"] == key[: len("gf_ab12cd34")]
