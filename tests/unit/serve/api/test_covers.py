import hashlib
import json
import threading
import time
from collections.abc import Callable
from datetime import datetime
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from gatefold.config import ServeSettings
from gatefold.errors import BundleCorrupt
from gatefold.generator.interface import GenerationRequest

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


def test_a_job_is_accepted_with_its_position_and_all_its_settings(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    answer = e.client.post("/v1/covers", files=SONG, data={"n": "2", "size": "64"})
    job = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/v1/covers/{job['job_id']}"
    assert (job["state"], job["position"], job["progress"], job["finished_at"]) == ("queued", 0, 0.0, None)
    seed = job["request"].pop("seed")
    assert 0 <= seed < 2**32
    assert job["request"] == {
        "n": 2, "size": 64, "novelty": None, "source_song_ids": None, "palette_from": None,
        "guidance_scale": None, "num_inference_steps": None, "strength": None, "adapter": None,
    }  # fmt: skip
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
    e.generator.hold = True
    answer = ordered(e.client, {"Prefer": "respond-async, wait=60"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0.05")
    assert ordered(e.client, {"Prefer": "wait=soon"}).status_code == 422


def test_the_generator_is_asked_for_exactly_what_was_ordered(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    ordered(
        e.client, WAIT, n=3, seed=2**63 - 3, size=64, novelty=0, source_song_ids=["t0", "t2"], palette_from="t2"
    )
    job = e.generator.jobs[0]
    assert job.seeds == [2**63 - 3, 2**63 - 2, 2**63 - 1]
    assert job.request == GenerationRequest(size=64, novelty=0, palette_from="t2")
    assert job.source_song_ids == {"t0", "t2"}
    assert (job.song_id, job.artist, job.song_embedding.tolist()) == ("t3", "a/b", [0, 1, 0, 0])


@pytest.mark.parametrize(
    ("kind", "fields", "said"),
    [
        ("local-score", {"guidance_scale": 2}, "guidance_scale = 2.0: a generator of kind 'local-score' has no"),
        ("local-score", {"num_inference_steps": 2}, "has no num_inference_steps; it takes novelty, palette_from, size"),
        ("local-score", {"adapter": "0123456789ab"}, "has no adapter"),
        ("transformer", {"novelty": 0.5}, "novelty = 0.5: a generator of kind 'transformer' has no novelty"),
        ("transformer", {"palette_from": "t0"}, "has no palette_from"),
        ("local-score", {"novelty": 1.5}, "novelty = 1.5"),
        ("local-score", {"size": 5000}, "at most 1024"),
        ("local-score", {"source_song_ids": []}, "source_song_ids"),
        ("local-score", {"source_song_ids": ["t0", "t9"]}, "source_song_ids = 't9': it is none of the 1 covers"),
        ("local-score", {"palette_from": "t3"}, "palette_from = 't3': it is none of the 3 covers that may be sources"),
    ],
)
def test_what_cannot_be_generated_is_refused_before_there_is_a_job(
    endpoint: Callable[..., Any], kind: str, fields: dict[str, Any], said: str
) -> None:
    e = endpoint()
    e.generator.kind = kind
    answer = ordered(e.client, **fields)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]
    assert e.generator.jobs == []


def test_no_source_at_all_is_refused_with_the_rule(endpoint: Callable[..., Any]) -> None:
    answer = ordered(endpoint().client, source_song_ids=["t9"])
    assert (answer.status_code, answer.json()["code"]) == (422, "no_sources")
    assert "may be a source for this song" in answer.json()["detail"]


def test_a_form_may_name_several_sources(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    fields = {"n": "1", "source_song_ids": ["t0", "t1"], "novelty": "0.25"}
    answer = e.client.post("/v1/covers", files=SONG, data=fields, headers=WAIT)
    assert answer.status_code == 200, answer.text
    assert answer.json()["request"]["source_song_ids"] == ["t0", "t1"]
    assert e.generator.jobs[0].request.novelty == 0.25


def test_every_new_cover_says_what_it_is_made_from(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=1, seed=40).json()
    image = job["images"][0]
    assert (image["largest_share"], image["largest_region"], image["likeness"], image["attempts"]) == (0.5, 0.5, 0.5, 1)
    assert image["palette_from"]["song_id"] == "t1"
    sources = client.get(image["sources_url"]).json()["sources"]
    assert [(one["song_id"], one["title"], one["artist"], one["share"]) for one in sources] == [
        ("t0", None, "a/b", 0.5), ("t1", None, "a/b", 0.5)
    ]  # fmt: skip
    assert sources[0]["cover_url"] == "/v1/tracks/t0/cover"
    answer = client.get(image["sources_map_url"])
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(answer.content)).convert("RGB")
    pixels = [drawn.getpixel(place) for place in ((1, 1), (1, 6))]
    at = ["#{:02x}{:02x}{:02x}".format(*pixel) for pixel in pixels if isinstance(pixel, tuple)]
    assert at == [one["colour"] for one in sources]


def test_a_png_carries_its_sources_as_text(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    image = ordered(client, WAIT, n=1).json()["images"][0]
    picture = Image.open(BytesIO(client.get(image["url"]).content))
    assert isinstance(picture, PngImageFile)
    sources = json.loads(picture.text["gatefold:sources"])
    assert sources == [{"song_id": "t0", "share": 0.5}, {"song_id": "t1", "share": 0.5}]


def test_a_cover_that_came_too_close_to_another_is_refused_with_the_reason(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.refuses = {41}
    job = ordered(e.client, WAIT, n=3, seed=40).json()
    assert job["state"] == "succeeded"
    assert [image["index"] for image in job["images"]] == [0, 2]
    (refused,) = job["refused"]
    assert (refused["index"], refused["seed"], refused["code"]) == (1, 41, "too_much_of_one_source")
    assert (refused["value"], refused["limit"]) == (0.6, 0.25)
    for path in ("", "/sources", "/sources.png"):
        answer = e.client.get(f"/v1/covers/{job['job_id']}/images/1{path}")
        assert answer.status_code == 404
        assert "was refused: 60% of it come from one source ('t0'), the limit is 0.25" in answer.json()["detail"]
    manifest = e.client.get(f"/v1/covers/{job['job_id']}/manifest.json").json()
    assert [cover.get("refused") for cover in manifest["covers"]] == [None, "too_much_of_one_source", None]


def test_a_catalogue_song_takes_nothing_from_its_own_cover_nor_its_artists(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    ordered(e.client, WAIT)
    filters = e.retriever.asked[0].filters
    assert (filters.exclude_song_ids, filters.exclude_artists) == ({"t3"}, {"a/b"})
    assert ("may_be_source", frozenset({"true"})) in filters.where


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
        ("images/0?size=5000", 422, "at most 3000"),
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
    e.generator.hold = True
    job = ordered(e.client).json()
    answer = e.client.get(f"/v1/covers/{job['job_id']}/images/0")
    assert (answer.status_code, "has no images: it is" in answer.json()["detail"]) == (404, True)


def test_the_manifest_holds_all_that_replays_the_job(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=2, seed=5).json()
    manifest = client.get(f"/v1/covers/{job['job_id']}/manifest.json").json()
    assert manifest["seeds"] == [5, 6]
    assert manifest["generator"] == {"version": "g1", "fingerprint": "generator-1"}
    assert manifest["encoder"]["fingerprint"] == "encoder-1"
    assert manifest["index"]["fingerprint"] == "index-1"
    assert manifest["neighbours"][0] == {"song_id": "t0", "score": pytest.approx(0.99)}
    assert manifest["song_embedding"] == [0, 1, 0, 0]
    assert manifest["settings"] == job["request"]


def test_cancelling_stops_the_generator_and_frees_the_queue(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(jobs_max=1))
    e.generator.hold = True
    job = ordered(e.client).json()
    wait_until(e.client, job["job_id"], "running")
    refused = ordered(e.client)
    assert (refused.status_code, refused.json()["code"], refused.headers["retry-after"]) == (429, "overloaded", "5")
    cancelled = e.client.delete(f"/v1/covers/{job['job_id']}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert cancelled.json()["finished_at"] is not None
    for _ in range(200):
        time.sleep(0 if e.generator.stopped else 0.01)
    assert e.generator.stopped == 1
    e.generator.hold = False
    assert ordered(e.client, WAIT).json()["state"] == "succeeded"
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
    e.generator.failure = BundleCorrupt("generator 'g1' is damaged; publish it again")
    job = ordered(e.client, WAIT).json()
    assert job["state"] == "failed"
    assert job["problem"]["code"] == "bundle_corrupt"
    assert job["problem"]["instance"] == f"/v1/covers/{job['job_id']}"


def test_a_job_that_fails_by_our_fault_shows_nothing_of_it(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.failure = RuntimeError("secret: 10.0.0.7")
    job = ordered(e.client, WAIT).json()
    assert job["problem"]["code"] == "internal_error"
    assert "10.0.0.7" not in json.dumps(job)


def test_a_song_that_cannot_be_decoded_makes_no_job(endpoint: Callable[..., Any]) -> None:
    answer = endpoint().client.post("/v1/covers", files={"song": ("a.wav", b"silence")})
    assert (answer.status_code, answer.json()["code"]) == (422, "silent_audio")


def test_the_same_idempotency_key_gives_the_same_job(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    key = {"Idempotency-Key": "order-66"}
    first = e.client.post("/v1/covers", files=SONG, data={"n": "1"}, headers=key).json()
    again = e.client.post("/v1/covers", files=SONG, data={"n": "1"}, headers=key | WAIT)
    assert again.json()["job_id"] == first["job_id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["request"]["seed"] == first["request"]["seed"]
    assert len(e.generator.jobs) == 1
    other = e.client.post("/v1/covers", files=SONG, data={"n": "2"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    louder = {"song": ("x.mp3", b"123456", "audio/mpeg")}
    assert e.client.post("/v1/covers", files=louder, data={"n": "1"}, headers=key).status_code == 409


def test_events_show_every_change_and_end_with_the_job(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    job = ordered(e.client).json()

    def release() -> None:
        while e.client.get(f"/v1/covers/{job['job_id']}").json()["progress"] < 0.5:
            time.sleep(0.01)
        e.generator.hold = False

    threading.Thread(target=release).start()
    answer = e.client.get(f"/v1/covers/{job['job_id']}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    sent = events(answer.text)
    assert [number for number, _ in sent] == list(range(1, len(sent) + 1))
    changes = [(j["state"], j["progress"]) for _, j in sent]
    assert changes[:3] == [("queued", 0.0), ("running", 0.0), ("running", 0.5)]
    assert changes[-1] == ("succeeded", 1.0)
    assert len(sent[-1][1]["images"]) == 4


def test_events_resume_after_the_last_one_seen(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT).json()
    url = f"/v1/covers/{job['job_id']}/events"
    every = events(client.get(url, headers={"Last-Event-ID": "nonsense"}).text)
    assert [number for number, _ in every] == list(range(1, len(every) + 1))
    assert events(client.get(url, headers={"Last-Event-ID": "1"}).text) == every[1:]
    assert client.get(url, headers={"Last-Event-ID": str(len(every))}).status_code == 204


def test_covers_are_as_dark_as_their_seeds(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    job = ordered(client, WAIT, n=2, seed=100, size=16).json()
    darkness = [np.asarray(Image.open(BytesIO(client.get(i["url"]).content))).mean() for i in job["images"]]
    assert darkness == [100, 101]


def test_a_job_says_when_it_ran_and_until_when_it_is_kept(endpoint: Callable[..., Any]) -> None:
    client = endpoint(ServeSettings(results_kept_s=60)).client
    job = ordered(client, WAIT).json()
    created, started, finished, expires = (
        datetime.fromisoformat(job[name]) for name in ("created_at", "started_at", "finished_at", "expires_at")
    )
    assert job["queued_s"] == pytest.approx((started - created).total_seconds())
    assert job["generation_s"] == pytest.approx((finished - started).total_seconds())
    assert (expires - finished).total_seconds() == pytest.approx(60)


def test_jobs_are_listed_page_by_page(endpoint: Callable[..., Any]) -> None:
    client = endpoint().client
    made = [ordered(client, WAIT).json()["job_id"] for _ in range(3)]
    first = client.get("/v1/covers", params={"limit": 2}).json()
    assert [job["job_id"] for job in first["jobs"]] == made[:0:-1]
    rest = client.get("/v1/covers", params={"limit": 2, "after": first["after"]}).json()
    assert ([job["job_id"] for job in rest["jobs"]], rest["after"]) == (made[:1], None)
    assert client.get("/v1/covers", params={"state": "failed"}).json() == {"jobs": [], "after": None}
    for wrong in ({"state": "odd"}, {"limit": 0}, {"limit": 101}):
        assert client.get("/v1/covers", params=wrong).status_code == 422
    assert client.get("/v1/covers", params={"after": "nothing"}).status_code == 404


def test_a_caller_sees_no_jobs_of_others_in_his_list(endpoint: Callable[..., Any]) -> None:
    keys = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("mine", "theirs")}
    client = endpoint(keys=",".join(keys.values())).client
    bearer = {name: {"Authorization": f"Bearer {name}"} for name in keys}
    theirs = ordered(client, bearer["theirs"] | {"Idempotency-Key": "k"}).json()
    assert client.get("/v1/covers", headers=bearer["mine"]).json()["jobs"] == []
    assert client.get("/v1/covers", headers=bearer["mine"], params={"after": theirs["job_id"]}).status_code == 404
    mine = ordered(client, bearer["mine"] | {"Idempotency-Key": "k"})
    assert mine.json()["job_id"] != theirs["job_id"]
    assert "idempotent-replayed" not in mine.headers
