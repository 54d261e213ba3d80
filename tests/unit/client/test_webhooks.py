"""What a webhook brought, as the reference library signs it."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from standardwebhooks import Webhook

from gatefold.client.errors import WebhookRefused
from gatefold.client.webhooks import verify
from tests.receiver import OTHER_SECRET, SECRET

JOB: dict[str, Any] = {
    "job_id": "a", "state": "succeeded", "position": None, "progress": 1.0, "created_at": "2026-01-01T00:00:00Z",
    "finished_at": "2026-01-01T00:01:00Z", "release": "r1", "matches": [], "images": [], "refused": [],
    "problem": None,
    "request": {
        "n": 1, "seed": 1, "size": 64, "novelty": None, "source_song_ids": None, "palette_from": None,
        "guidance_scale": None, "num_inference_steps": None, "strength": None, "adapter": None,
    },
}  # fmt: skip
BODY = json.dumps({"type": "job.succeeded", "timestamp": "2026-01-01T00:01:00Z", "data": JOB}, ensure_ascii=False)


def signed(body: str = BODY, age_s: float = 0.0, secret: str = SECRET) -> dict[str, str]:
    at = datetime.fromtimestamp(time.time() - age_s, UTC)
    signature = Webhook(secret).sign("msg_1", at, body)
    return {"webhook-id": "msg_1", "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signature}


def test_what_the_endpoint_signed_is_an_event() -> None:
    event = verify(SECRET, signed(), BODY)
    assert (event.type, event.data.job_id, event.data.ended) == ("job.succeeded", "a", True)
    capitals = {name.title(): value for name, value in signed().items()}
    assert verify(SECRET, capitals, BODY.encode()) == event


def test_one_of_several_signatures_suffices() -> None:
    other = signed(secret=OTHER_SECRET)["webhook-signature"]
    headers = signed()
    headers["webhook-signature"] = f"v2,x {other} {headers['webhook-signature']}"
    assert verify(SECRET, headers, BODY).type == "job.succeeded"


@pytest.mark.parametrize("changed", ["body", "webhook-id", "webhook-timestamp", "webhook-signature"])
def test_whatever_is_changed_breaks_the_signature(changed: str) -> None:
    headers, body = signed(), BODY
    if changed == "body":
        body = BODY.replace("succeeded", "failed")
    else:
        headers[changed] = {"webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}.get(changed, "v1,msg_2é")
    with pytest.raises(WebhookRefused, match="none of its signatures"):
        verify(SECRET, headers, body)


@pytest.mark.parametrize("missing", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_request_without_a_header_is_refused(missing: str) -> None:
    headers = signed()
    del headers[missing]
    with pytest.raises(WebhookRefused, match=f"no header {missing}"):
        verify(SECRET, headers, BODY)


@pytest.mark.parametrize("age_s", [400, -400])
def test_an_old_one_that_is_sent_again_is_refused(age_s: float) -> None:
    with pytest.raises(WebhookRefused, match="s old, at most 300 s"):
        verify(SECRET, signed(age_s=age_s), BODY)
    assert verify(SECRET, signed(age_s=age_s), BODY, tolerance_s=500).type == "job.succeeded"


def test_a_time_that_is_none_is_refused() -> None:
    with pytest.raises(WebhookRefused, match="no number of seconds"):
        verify(SECRET, signed() | {"webhook-timestamp": "soon"}, BODY)


def test_a_secret_that_is_none_is_refused() -> None:
    for secret in ("", "whsec_", "whsec_???"):
        with pytest.raises(ValueError, match="as the operator of the endpoint gave it"):
            verify(secret, signed(), BODY)


def test_what_is_signed_and_no_event_is_refused() -> None:
    with pytest.raises(WebhookRefused, match="no event of this API"):
        verify(SECRET, signed("[]"), "[]")
