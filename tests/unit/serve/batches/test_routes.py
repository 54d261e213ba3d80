import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from gatefold.config import ServeSettings
from gatefold.errors import NoSources
from gatefold.serve_settings import JobBatchSettings
from tests.unit.serve.conftest import bearer

TYPE = {"Content-Type": "application/jsonl"}


def line(custom_id: str, url: str = "/v1/covers", **body: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"song_id": "t3", **body}}


def sent(client: Any, *lines: object, headers: dict[str, str] = TYPE) -> Any:
    return client.post("/v1/batches", content="\n".join(json.dumps(one) for one in lines), headers=headers)


def ended(client: Any, path: str) -> dict[str, Any]:
    for _ in range(500):
        batch: dict[str, Any] = client.get(path).json()
        if batch["state"] != "running":
            return batch
        time.sleep(0.01)
    raise AssertionError(f"still {batch}")


def read(client: Any, path: str) -> list[dict[str, Any]]:
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(text) for text in answer.text.splitlines()]


def test_a_batch_is_answered_line_by_line_as_the_calls_by_themselves_are(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    lines = [
        line("a", n=2, seed=40), line("b", "/v1/searches", k=2), line("c", song_id="nobody"),
        line("d", "/v1/searches", song_id="nobody"),
    ]  # fmt: skip
    answer = sent(client, *lines)
    assert answer.status_code == 202
    path = answer.headers["location"]
    assert (answer.json()["state"], answer.json()["lines"]) == ("running", 4)
    batch = ended(client, path)
    assert (batch["state"], batch["counts"]["succeeded"], batch["counts"]["failed"]) == ("completed", 2, 2)
    made, found = read(client, batch["output_url"])
    assert (made["custom_id"], made["response"]["status_code"], made["error"]) == ("a", 200, None)
    assert made["response"]["body"] == client.get(f"/v1/covers/{made['response']['body']['job_id']}").json()
    assert [image["seed"] for image in made["response"]["body"]["images"]] == [40, 41]
    alone = client.post("/v1/searches", json={"song_id": "t3", "k": 2}).json()
    assert (found["line"], found["response"]["body"]) == (2, alone)
    wrong = read(client, batch["errors_url"])
    assert [(one["custom_id"], one["response"]["status_code"]) for one in wrong] == [("c", 404), ("d", 404)]
    assert {one["response"]["body"]["code"] for one in wrong} == {"unknown_track"}


def test_a_job_that_fails_is_among_the_errors_with_its_problem(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.failure = NoSources("none left")
    batch = ended(e.client, sent(e.client, line("a")).headers["location"])
    (wrong,) = read(e.client, batch["errors_url"])
    assert (wrong["response"]["status_code"], wrong["response"]["body"]["code"]) == (422, "no_sources")


def test_all_lines_that_are_wrong_are_named_and_nothing_is_begun(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    lines = [line(f"c{number}", n=99 if number % 2 else 1) for number in range(40)]
    answer = sent(e.client, *lines)
    problem = answer.json()
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert (problem["code"], problem["title"]) == ("invalid_input", "Invalid input")
    assert [one["line"] for one in problem["lines"]] == list(range(2, 41, 2))
    assert problem["lines"][0]["detail"] == "n = 99: at most 8 (serve.n_max)"
    assert problem["detail"].startswith("20 lines are wrong, and nothing was begun: line 2: n = 99")
    assert e.client.get("/v1/covers").json()["jobs"] == []


@pytest.mark.parametrize(
    ("content", "headers", "status", "said"),
    [
        (b"", TYPE, 422, "no lines"),
        (b"\n\n", TYPE, 422, "no lines"),
        (b"{}", {"Content-Type": "application/json"}, 415, "application/jsonl"),
        (b"x" * 3000, TYPE, 413, "serve.upload_max_bytes"),
    ],
)
def test_what_is_no_batch_is_refused(
    endpoint: Callable[..., Any], content: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    client = endpoint(ServeSettings(upload_max_bytes=2000, batches=JobBatchSettings(waiting_max=1))).client
    for _ in range(2):  # what was refused is not waited for
        answer = client.post("/v1/batches", content=content, headers=headers)
        assert answer.status_code == status
        assert said in answer.json()["detail"]
    assert sent(client, line("a")).status_code == 202


def test_a_batch_that_is_sent_again_under_its_key_is_the_same_batch(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    key = TYPE | {"Idempotency-Key": "night-1"}
    first = sent(client, line("a"), line("b"), headers=key)
    again = sent(client, line("a"), line("b"), headers=key)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.headers["location"] == first.headers["location"]
    assert [one.headers.get("idempotent-replayed") for one in (first, again)] == [None, "true"]
    ended(client, first.headers["location"])
    assert len(client.get("/v1/covers").json()["jobs"]) == 2
    assert sent(client, line("a"), line("b"), headers=key).json()["state"] == "completed"
    other = sent(client, line("a"), headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert sent(client, line("a"), line("b")).headers["location"] != first.headers["location"]


def test_a_batch_is_sent_again_also_when_no_other_would_be_taken(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(batches=JobBatchSettings(waiting_max=1)))
    e.generator.hold = True
    key = TYPE | {"Idempotency-Key": "night-1"}
    first = sent(e.client, line("a"), headers=key)
    assert sent(e.client, line("a")).status_code == 429
    again = sent(e.client, line("a"), headers=key)
    assert (again.status_code, again.json()["batch_id"]) == (202, first.json()["batch_id"])


def test_the_same_key_of_another_caller_is_another_batch(
    endpoint: Callable[..., Any], new_key: Callable[..., str]
) -> None:
    callers = [bearer(new_key("generate")) | TYPE | {"Idempotency-Key": "night-1"} for _ in range(2)]
    client = endpoint().client
    mine, theirs = (sent(client, line("a"), headers=caller).headers["location"] for caller in callers)
    assert mine != theirs


def test_a_batch_that_is_cancelled_says_so_of_every_line_that_was_not_run(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(batches=JobBatchSettings(jobs_at_once=1)))
    e.generator.hold = True
    path = sent(e.client, line("a"), line("b"), line("c", "/v1/searches")).headers["location"]
    for _ in range(500):
        if e.client.get(path).json()["counts"] == {
            "waiting": 1, "running": 1, "succeeded": 1, "failed": 0, "skipped": 0
        }:  # fmt: skip
            break
        time.sleep(0.01)
    batch = e.client.delete(path).json()
    assert (batch["state"], batch["counts"]["skipped"]) == ("cancelled", 2)
    assert [one["custom_id"] for one in read(e.client, batch["output_url"])] == ["c"]
    wrong = read(e.client, batch["errors_url"])
    assert [(one["custom_id"], one["error"]["code"]) for one in wrong] == [(c, "batch_cancelled") for c in "ab"]


def test_an_unknown_batch_is_a_404(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/output"), ("GET", "/errors")):
        assert client.request(method, f"/v1/batches/unknown{path}").status_code == 404
