import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from gatefold.client import Client, calls
from gatefold.client.errors import NotThere
from gatefold.config import ServeSettings
from gatefold.serve_settings import WebhookSettings
from serve.jobs.database import Database
from serve.webhooks.outbox import Answer, Outbox
from tests.listening import listening

URL = "https://hooks.example.org/hook?token=hunter2"
SONG = {"song": ("x.mp3", b"12345", "audio/mpeg")}
WAIT = {"Prefer": "wait=10"}


def test_what_became_of_a_webhook_is_listed_and_delivered_again_by_hand(
    endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    app = endpoint().client.app

    async def refused() -> None:
        database = Database(f"sqlite:///{tmp_path}/jobs.sqlite")
        outbox = Outbox(database, WebhookSettings())
        (claim,) = await outbox.claim(1, {})
        await outbox.record(claim, Answer(0.25, 410, "gone"))
        await database.close()

    with listening(app) as url, Client(url) as client:
        job = client.generate(song_id="t3", n=1, webhook_url=URL, webhook_events=["job.succeeded"]).wait(20)
        (pending,) = job.deliveries()
        assert (pending.number, pending.type, pending.state) == (1, "job.succeeded", "pending")
        assert (pending.receiver, pending.attempts) == ("hooks.example.org:443", [])
        assert pending.next_attempt_at is not None
        asyncio.run(refused())
        (failed,) = job.deliveries()
        assert (failed.state, failed.next_attempt_at, failed.webhook_id) == ("failed", None, pending.webhook_id)
        assert [(one.status, one.answer, one.seconds) for one in failed.attempts] == [(410, "gone", 0.25)]
        again = job.redeliver(1)
        assert (again.state, again.webhook_id, len(again.attempts)) == ("pending", pending.webhook_id, 1)
        with pytest.raises(NotThere, match="no delivery 2"):
            job.redeliver(2)
        numbers = (httpx.post(f"{url}/v1/covers/{job.job_id}/deliveries/{no}/redeliver") for no in (0, -1, 2**63))
        assert [answer.status_code for answer in numbers] == [422] * 3
        with pytest.raises(NotThere, match="unknown_job"):
            client.send(calls.deliveries("0" * 32))


def test_a_form_takes_a_webhook_too(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    form = {"n": "1", "webhook_url": URL, "webhook_events": ["job.failed", "job.succeeded"]}
    answer = client.post("/v1/covers", files=SONG, data=form, headers=WAIT)
    assert answer.status_code == 200
    assert "hunter2" not in answer.text
    deliveries = client.get(f"{answer.headers['location']}/deliveries").json()["deliveries"]
    assert [one["type"] for one in deliveries] == ["job.succeeded"]
    assert "hunter2" not in str(deliveries)


def test_a_job_without_a_webhook_has_no_deliveries(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    answer = client.post("/v1/covers", json={"song_id": "t3", "n": 1}, headers=WAIT)
    assert client.get(f"{answer.headers['location']}/deliveries").json() == {"deliveries": []}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"webhook_url": "http://hooks.example.org/"}, "webhook_url"),
        ({"webhook_url": "https://127.0.0.1/"}, "not public"),
        ({"webhook_url": "https://[::ffff:10.0.0.1]/"}, "not public"),
        ({"webhook_url": "https://me:secret@hooks.example.org/"}, "neither a user name"),
        ({"webhook_url": URL, "webhook_events": []}, "webhook_events"),
        ({"webhook_url": URL, "webhook_events": ["job.started"]}, "webhook_events"),
        ({"webhook_events": ["job.failed"]}, "webhook_events need a webhook_url"),
    ],
)
def test_a_webhook_that_cannot_be_called_is_refused_with_the_request(
    endpoint: Callable[..., Any], fields: dict[str, Any], said: str
) -> None:
    answer = endpoint().client.post("/v1/covers", json={"song_id": "t3", **fields})
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_an_internal_address_is_taken_where_the_operator_allows_it(endpoint: Callable[..., Any]) -> None:
    client = endpoint(ServeSettings(webhooks=WebhookSettings(allowed_hosts=["127.0.0.1"]))).client
    fields = {"song_id": "t3", "n": 1, "webhook_url": "https://127.0.0.1:9/"}
    assert client.post("/v1/covers", json=fields).status_code == 202


def test_without_a_secret_a_webhook_is_refused(endpoint: Callable[..., Any]) -> None:
    answer = endpoint(webhooks=False).client.post("/v1/covers", json={"song_id": "t3", "webhook_url": URL})
    assert answer.status_code == 422
    assert "GATEFOLD_WEBHOOK_SECRET is not set" in answer.json()["detail"]


def test_the_same_key_with_another_webhook_is_another_request(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    sent = [
        client.post("/v1/covers", json={"song_id": "t3", "n": 1, **fields}, headers={"Idempotency-Key": "k"})
        for fields in ({}, {"webhook_url": URL})
    ]
    assert [answer.status_code for answer in sent] == [202, 409]


def test_the_description_has_what_a_webhook_sends(endpoint: Callable[..., Any]) -> None:
    described = endpoint().client.get("/openapi.json").json()["webhooks"]["job-ended"]["post"]
    schema = described["requestBody"]["content"]["application/json"]["schema"]
    assert schema == {"$ref": "#/components/schemas/WebhookEvent"}
