import json
import threading
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gatefold.config import ServeSettings
from gatefold.errors import BundleCorrupt

SONG = {"song": ("x.mp3", b"12345", "audio/mpeg")}
WAIT = {"Prefer": "wait=10"}


def ordered(client: Any, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    return client.post("/v1/covers", json={"song_id": "t3", **fields}, headers=headers or {})


def wait_until(client: Any, job_id: str, state: str) -> dict[str, Any]:
    for _ in range(200):
        job: dict[str, Any] = client.get(f"/v1/covers/{job_id}").json()
        if job["state"] == state:
            return job
        time.sleep(0.01)
    raise AssertionError(f"still {job['state']}, not {state}")


def events(text: str) -> list[tuple[int, dict[str, Any]]]:
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.strip().split("\n\n")]
    assert all(block["event"] == "state" for block in blocks)
    return [(int(block["id"]), json.loads(block["data"])) for block in blocks]


def test_an_order_is_accepted_with_its_place_and_all_its_settings(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.painter.hold = True
    answer = e.client.post("/v1/covers", files=SONG, data={"n": "2", "size": "64"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/covers/{job['job_id']}"
    assert (job["state"], job["position"], job["progress"], job["finished_at"]) == ("queued", 0, 0.0, None)
    seed = job["request"].pop("seed")
    assert 0 <= seed < 2**32
    assert job["request"] == {"n": 2, "guidance_scale": 2.0, "num_inference_steps": 25, "size": 64}
    assert [m["track"]["song_id"] for m in job["matches"]] == ["t0", "t1", "t2"]
    assert (job["images"], job["problem"], job["release"]) == ([], None, "r1")


def test_who_prefers_to_wait_gets_the_finished_job(endpoint: Callable[..., Any]) -> None:
    answer = ordered(endpoint().client, WAIT, n=2, seed=40)
    job = answer.json()
    assert answer.status_code == 200
    assert answer.headers["preference-applied"] == "wait=10"
    assert (job["state"], job["progress"], job["position"]) == ("succeeded", 1.0, None)
    assert [(i["index"], i["seed"], i["url"]) for i in job["images"]] == [
        (0, 40, f"/v1/covers/{job['job_id']}/images/0"),
        (1, 41, f"/v1/covers/{job['job_id']}/images/1"),
    ]
    assert job["images"][0]["closest"]["track"]["song_id"] == "t0"
    assert job["finished_at"] >= job["created_at"]


def test_waiting_is_capped_and_answers_202_when_time_is_up(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(wait_max_s=0.05))
    e.painter.hold = True
    answer = ordered(e.client, {"Prefer": "respond-async, wait=60"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.05")
    assert ordered(e.client, {"Prefer": "wait=soon"}).status_code == 422


def test_the_painter_is_asked_for_exactly_what_was_ordered(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    ordered(e.client, WAIT, n=3, seed=2**63 - 3, guidance_scale=0, num_inference_steps=5)
    commission = e.painter.commissions[0]
    assert commission.seeds == [2**63 - 3, 2**63 - 2, 2**63 - 1]
    assert (commission.guidance_scale, commission.num_inference_steps) == (0, 5)
    assert commission.neighbour_embeddings.shape == (3, 4)


def test_a_catalogue_song_takes_no_style_from_its_own_cover(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    ordered(e.client, WAIT)
    assert e.retriever.asked[0].filters.exclude_song_ids == {"t3"}


def test_images_come_in_the_size_and_format_asked_for(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    url = ordered(client, WAIT, n=1, seed=9, size=48).json()["images"][0]["url"]
    png = client.get(url)
    assert png.headers["content-type"] == "image/png"
    assert "immutable" in png.headers["cache-control"]
    picture = Image.open(BytesIO(png.content))
    assert picture.size == (48, 48)
    assert picture.getpixel((5, 5)) == (9, 9, 9)
    jpeg = client.get(f"{url}?size=16&format=jpeg&download=1")
    assert Image.open(BytesIO(jpeg.content)).size == (16, 16)
    assert jpeg.headers["content-disposition"] == 'attachment; filename="cover-9.jpg"'


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("images/1", 404, "has no image 1; it has 0 to 0"),
        ("images/-1", 404, "has no image -1"),
        ("images/0?size=5000", 422, "at most 1024"),
        ("images/0?format=tiff", 422, "format = 'tiff'"),
        ("images/x", 422, "index = 'x'"),
    ],
)
def test_an_image_that_cannot_be_had_says_why(endpoint: Callable[..., Any], path: str, status: int, said: str) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=1).json()
    answer = client.get(f"/v1/covers/{job['job_id']}/{path}")
    assert answer.status_code == status
    assert said in answer.json()["detail"]


def test_an_unfinished_job_has_no_images(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.painter.hold = True
    job = ordered(e.client).json()
    answer = e.client.get(f"/v1/covers/{job['job_id']}/images/0")
    assert (answer.status_code, "has no images: it is" in answer.json()["detail"]) == (404, True)


def test_the_manifest_holds_all_that_replays_the_job(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=2, seed=5).json()
    manifest = client.get(f"/v1/covers/{job['job_id']}/manifest.json").json()
    assert manifest["seeds"] == [5, 6]
    assert manifest["generator"] == {"version": "g1", "fingerprint": "hand-1"}
    assert manifest["encoder"]["fingerprint"] == "ears-1"
    assert manifest["index"]["fingerprint"] == "index-1"
    assert manifest["neighbours"][0] == {"song_id": "t0", "score": pytest.approx(0.99)}
    assert manifest["song_embedding"] == [0, 1, 0, 0]
    assert manifest["settings"] == job["request"]


def test_cancelling_stops_the_painter_and_frees_the_queue(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(jobs_max=1))
    e.painter.hold = True
    job = ordered(e.client).json()
    wait_until(e.client, job["job_id"], "running")
    refused = ordered(e.client)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "overloaded", "5")
    cancelled = e.client.delete(f"/v1/covers/{job['job_id']}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["finished_at"] is not None
    e.painter.hold = False
    assert ordered(e.client, WAIT).json()["state"] == "succeeded"
    assert e.painter.put_down == 1
    assert e.client.get(f"/v1/covers/{job['job_id']}").json()["state"] == "cancelled"


def test_cancelling_a_finished_job_changes_nothing(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT).json()
    assert client.delete(f"/v1/covers/{job['job_id']}").json() == job


@pytest.mark.parametrize("path", ["", "/events", "/images/0", "/manifest.json"])
def test_an_unknown_job_is_a_404_everywhere(endpoint: Callable[..., Any], path: str) -> None:
    answer = endpoint().client.get(f"/v1/covers/nothing{path}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_job")


def test_a_job_that_fails_carries_its_problem(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.painter.failure = BundleCorrupt("generator 'g1' is damaged; publish it again")
    job = ordered(e.client, WAIT).json()
    assert job["state"] == "failed"
    assert job["problem"]["code"] == "bundle_corrupt"
    assert job["problem"]["instance"] == f"/v1/covers/{job['job_id']}"


def test_a_job_that_fails_by_our_fault_tells_nothing_of_it(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.painter.failure = RuntimeError("secret: 10.0.0.7")
    job = ordered(e.client, WAIT).json()
    assert job["problem"]["code"] == "internal_error"
    assert "10.0.0.7" not in json.dumps(job)


def test_a_song_that_cannot_be_heard_makes_no_job(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.post("/v1/covers", files={"song": ("a.wav", b"silence")})
    assert (answer.status_code, answer.json()["code"]) == (422, "silent_audio")


def test_the_same_idempotency_key_gives_the_same_job(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    key = {"Idempotency-Key": "order-66"}
    first = e.client.post("/v1/covers", files=SONG, data={"n": "1"}, headers=key).json()
    again = e.client.post("/v1/covers", files=SONG, data={"n": "1"}, headers=key | WAIT)
    assert again.json()["job_id"] == first["job_id"]
    assert again.json()["request"]["seed"] == first["request"]["seed"]
    assert len(e.painter.commissions) == 1
    other = e.client.post("/v1/covers", files=SONG, data={"n": "2"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    louder = {"song": ("x.mp3", b"123456", "audio/mpeg")}
    assert e.client.post("/v1/covers", files=louder, data={"n": "1"}, headers=key).status_code == 409


def test_events_tell_every_change_and_end_with_the_job(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.painter.hold = True
    job = ordered(e.client).json()
    threading.Timer(0.2, setattr, (e.painter, "hold", False)).start()
    answer = e.client.get(f"/v1/covers/{job['job_id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    told = events(answer.text)
    assert [number for number, _ in told] == [1, 2, 3, 4, 5]
    assert [(j["state"], j["progress"]) for _, j in told] == [
        ("queued", 0.0),
        ("running", 0.0),
        ("running", 0.5),
        ("running", 1.0),
        ("succeeded", 1.0),
    ]
    assert len(told[-1][1]["images"]) == 4


def test_events_resume_after_the_last_one_seen(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT).json()
    url = f"/v1/covers/{job['job_id']}/events"
    assert [n for n, _ in events(client.get(url, headers={"Last-Event-ID": "3"}).text)] == [4, 5]
    assert client.get(url, headers={"Last-Event-ID": "5"}).text == ""
    assert len(events(client.get(url, headers={"Last-Event-ID": "nonsense"}).text)) == 5


def test_covers_are_as_dark_as_their_seeds(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=2, seed=100, size=16).json()
    darkness = [np.asarray(Image.open(BytesIO(client.get(i["url"]).content))).mean() for i in job["images"]]
    assert darkness == [100, 101]
