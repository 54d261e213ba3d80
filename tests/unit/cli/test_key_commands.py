"""`gatefold keys`: what it shows, and what it never shows."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from gatefold.cli import serve_command, session
from gatefold.cli.main import app
from gatefold.storage.contents import releases

SECRET = re.compile(r"gf_[0-9a-f]{8}_[\w-]{43}")


@pytest.fixture(autouse=True)
def _no_database_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    for name in ("GATEFOLD_DATABASE_URL", "GATEFOLD_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(releases, "current", lambda _: None)  # `serve` asks first whether there is one


def call(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(app, ["--workspace", str(folder / "w"), *args], env={"COLUMNS": "200"})


def answer(folder: Path, *args: str) -> Any:
    result = call(folder, *args, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_is_made_and_its_secret_is_shown_this_once(tmp_path: Path) -> None:
    limits = ["--requests-per-minute", "60", "--jobs-at-once", "2", "--covers-per-month", "100"]
    made = answer(tmp_path, "keys", "create", "Acme Music", "--expires", "2099-01-31", *limits)
    assert SECRET.fullmatch(made["secret"])
    key = made["key"]
    assert made["secret"].startswith(f"{key['key']}_")
    assert key | {"key": "", "created_at": ""} == {
        "key": "", "name": "Acme Music", "state": "active", "scopes": ["generate", "search"], "created_at": "",
        "expires_at": "2099-01-31T00:00:00+00:00", "revoked_at": None,
        "requests_per_minute": 60, "jobs_at_once": 2, "covers_per_month": 100,
        "webhook": None, "webhook_events": None,
    }  # fmt: skip
    assert answer(tmp_path, "keys", "list") == {"keys": [key]}
    shown = call(tmp_path, "keys", "list").stdout
    assert key["key"] in shown
    assert "Acme Music" in shown
    assert SECRET.search(shown) is None


@pytest.mark.parametrize("args", [["create", "Acme"], ["list"], ["audit"], ["revoke", "gf_ab12cd34"]])
def test_no_keys_are_kept_in_a_workspace_that_is_not_there(tmp_path: Path, args: list[str]) -> None:
    result = call(tmp_path / "typo", "keys", *args)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"there is no workspace at '{tmp_path}/typo/w'" in result.stderr
    assert not (tmp_path / "typo").exists()


def test_on_a_terminal_the_secret_alone_is_on_stdout(tmp_path: Path) -> None:
    result = call(tmp_path, "keys", "create", "Acme", "--scope", "admin")
    assert SECRET.fullmatch(result.stdout.strip())
    assert "shown this once" in result.stderr


def test_a_webhook_of_a_key_is_set_shown_without_its_path_and_taken_away(tmp_path: Path) -> None:
    made = answer(tmp_path, "keys", "create", "Acme", "--webhook-url", "https://hooks.test/a?token=hunter2")["key"]
    assert (made["webhook"], made["webhook_events"]) == ("hooks.test:443", None)
    for shown in (call(tmp_path, "keys", "list").stdout, call(tmp_path, "keys", "list", "--json").stdout):
        assert "hooks.test:443" in shown
        assert "hunter2" not in shown
    wanted = ["--webhook-event", "job.failed"]
    set_to = call(tmp_path, "keys", "webhook", made["key"], "https://hooks.test:8443/hunter2", *wanted)
    assert f"jobs of {made['key']} (Acme) are reported to hooks.test:8443" in set_to.output
    assert "hunter2" not in set_to.output
    (changed,) = answer(tmp_path, "keys", "list")["keys"]
    assert (changed["webhook"], changed["webhook_events"]) == ("hooks.test:8443", ["job.failed"])
    assert answer(tmp_path, "keys", "webhook", made["key"], "--remove")["key"]["webhook"] is None
    actions = [one["action"] for one in answer(tmp_path, "keys", "audit")["entries"]]
    assert actions == ["remove webhook of key", "set webhook of key", "create key"]


def test_a_key_is_rotated_and_revoked_and_the_audit_names_who_did_it(tmp_path: Path) -> None:
    made = answer(tmp_path, "keys", "create", "Acme", "--scope", "search")
    key = made["key"]["key"]
    rotated = answer(tmp_path, "keys", "rotate", key, "--keep-hours", "24")
    assert rotated["secret"] != made["secret"]
    assert rotated["key"] == made["key"]
    assert answer(tmp_path, "keys", "revoke", key)["key"]["state"] == "revoked"
    entries = answer(tmp_path, "keys", "audit")["entries"]
    assert [(one["action"], one["target"], one["result"]) for one in entries] == [
        (f"{change} key", key, "done") for change in ("revoke", "rotate", "create")
    ]
    assert "@" in entries[0]["caller"]
    assert key in call(tmp_path, "keys", "audit").stdout


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["create", "x", "--scope", "root"], 2, "scope 'root' is not known; there are search, generate, admin"),
        (["create", "x", "--expires", "2020-01-01"], 2, "--expires 2020-01-01: that day has begun"),
        (["create", "x", "--jobs-at-once", "0"], 2, "jobs_at_once = 0: must be 1 to"),
        (["create", "x", "--webhook-url", "http://hooks.test/"], 2, "URL of a webhook: must begin with https://"),
        (["create", "x", "--webhook-url", "https://10.0.0.1/"], 2, "is not public; the operator may allow it"),
        (["webhook", "gf_00000000", "https://a.test/", "--webhook-event", "job.done"], 2, "'job.done' is not known"),
        (["create", "x", "--webhook-event", "job.failed"], 2, "--webhook-event: needs a URL"),
        (["webhook", "gf_00000000"], 2, "takes either a URL or --remove"),
        (["webhook", "gf_00000000", "https://a.test/", "--remove"], 2, "takes either a URL or --remove"),
        (["webhook", "gf_00000000", "https://a.test/"], 1, "key 'gf_00000000' is not known"),
        (["revoke", "gf_00000000"], 1, "key 'gf_00000000' is not known; `gatefold keys list` shows all"),
    ],
)
def test_what_cannot_be_is_said(tmp_path: Path, args: list[str], code: int, said: str) -> None:
    result = call(tmp_path, "keys", *args, "--json")
    assert result.exit_code == code
    assert said in json.loads(result.stdout)["error"]["message"]


def test_keys_of_a_workspace_in_a_bucket_need_a_database() -> None:
    result = CliRunner().invoke(app, ["--workspace", "s3://bucket/x", "keys", "list"])
    assert result.exit_code == 2
    assert "GATEFOLD_DATABASE_URL" in result.stderr


# ---- the first key --------------------------------------------------------------------------------------------------


class _EnoughError(Exception):
    """Ray is not started in a test."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(_: session.Session) -> None:
        raise _EnoughError

    monkeypatch.setattr(session.Session, "connect", connect)


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("verb", ["serve", "demo"])
def test_a_host_that_others_reach_gets_a_first_key_once(tmp_path: Path, verb: str) -> None:
    first = call(tmp_path, verb, "--host", "0.0.0.0")
    assert isinstance(first.exception, _EnoughError)
    assert len(SECRET.findall(first.output)) == 1
    (key,) = answer(tmp_path, "keys", "list")["keys"]
    assert key["scopes"] == ["admin", "generate", "search"]
    assert SECRET.search(call(tmp_path, verb, "--host", "0.0.0.0").output) is None
    assert len(answer(tmp_path, "keys", "list")["keys"]) == 1


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize("args", [["--host", "127.0.0.1"], ["--host", "0.0.0.0", "--open"]])
def test_where_none_is_needed_no_key_is_made(tmp_path: Path, args: list[str]) -> None:
    assert isinstance(call(tmp_path, "serve", *args).exception, _EnoughError)
    assert answer(tmp_path, "keys", "list") == {"keys": []}


@pytest.mark.usefixtures("started")
def test_where_keys_are_in_the_environment_no_other_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEFOLD_API_KEYS", "a" * 64)
    assert isinstance(call(tmp_path, "serve", "--host", "0.0.0.0").exception, _EnoughError)
    assert answer(tmp_path, "keys", "list") == {"keys": []}


def test_the_first_key_is_in_the_answer_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Endpoint:
        url = "http://127.0.0.1:8000"

    monkeypatch.setattr(session.Session, "connect", lambda _: None)
    monkeypatch.setattr(serve_command, "deploy_endpoint", lambda *_, **__: Endpoint())
    monkeypatch.setattr(serve_command, "keep_serving", lambda *_: None)
    shown = json.loads(call(tmp_path, "serve", "--host", "0.0.0.0", "--json").stdout)
    assert SECRET.fullmatch(shown["first_key"])
    assert list(shown) == ["url", "first_key"]


def test_a_database_that_is_away_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.Session, "connect", lambda _: pytest.fail("Ray was started"))
    monkeypatch.setitem(os.environ, "GATEFOLD_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:1/jobs")
    refused = call(tmp_path, "serve", "--host", "0.0.0.0")
    assert refused.exit_code == 1
    assert "does not answer" in refused.stderr
    assert "hunter2" not in refused.output
