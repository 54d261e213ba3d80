"""The endpoint as it is deployed: real Ray Serve, a small workspace of untrained models, and HTTP from outside."""

import importlib
import io
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from PIL import Image

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.client import Client
from gatefold.client.webhooks import verify
from gatefold.config import ServeSettings, Settings
from gatefold.errors import BundleNotFound, InvalidSettings
from gatefold.generator.interface import GenerationRequest, Sources
from gatefold.serve_settings import WebhookSettings
from gatefold.storage.contents import releases
from gatefold.storage.models.encoders import load_encoder
from gatefold.storage.models.generators import load_generator
from gatefold.storage.models.indexes import load_index
from gatefold.workspace import Workspace
from serve.deploy import deploy, stop
from serve.observability import metrics
from tests.mutations import memory_bomb
from tests.observed import OF_RAY_SERVE, Collector, logged, names_exported, within
from tests.openapi.run import generated_client
from tests.receiver import SECRET, authority, receiving
from tests.served import TRACKS, free_port, publish_release, song

CONFIG = Path(__file__).parents[2] / "serve" / "serve.yaml"
STEPS_MAX = 4000


@dataclass
class Endpoint:
    url: str
    http: httpx.Client
    workspace: Workspace
    collector: Collector
    """of its spans"""


@pytest.fixture(scope="module")
def endpoint(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:  # noqa: ARG001
    """With traces, and logs as JSON."""
    workspace = Workspace((tmp_path_factory.mktemp("serve") / "workspace").as_uri())
    publish_release(workspace)
    pem = tmp_path_factory.mktemp("authorities") / "ours.pem"
    pem.write_text(authority()[0])
    hooks = WebhookSettings(allowed_hosts=["localhost"], authorities=str(pem))
    sizes = {"upload_max_bytes": 3_000_000, "upload_max_duration_s": 60, "steps_max": STEPS_MAX, "jobs_max": 3}
    settings = Settings(serve=ServeSettings(**sizes, webhooks=hooks, log_format="json"))
    port = free_port()
    collector = Collector()
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("GATEFOLD_WEBHOOK_SECRET", SECRET)
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        url = deploy(CONFIG, workspace=workspace.uri, examples=None, host="127.0.0.1", port=port, settings=settings).url
    with httpx.Client(base_url=url, timeout=60) as http:
        yield Endpoint(url, http, workspace, collector)
    stop()
    collector.close()


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]


def test_an_uploaded_song_finds_covers_as_the_ground_floor_would(endpoint: Endpoint) -> None:
    answer = endpoint.http.post("/v1/searches", files=song(), data={"k": "7", "spectrogram": "true"})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert [m["rank"] for m in found["matches"]] == list(range(1, 8))
    assert found["song"]["duration_s"] == 3.0
    assert found["song"]["spectrogram"].startswith("data:image/png;base64,")
    assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]

    embedding = endpoint.http.post("/v1/embeddings", files=song()).json()
    again = endpoint.http.post(
        "/v1/searches", json={"embedding": embedding["embedding"], "encoder": embedding["encoder"], "k": 7}
    )
    assert [m["track"] for m in again.json()["matches"]] == [m["track"] for m in found["matches"]]


def test_the_end_of_a_job_is_delivered_signed(endpoint: Endpoint) -> None:
    with receiving() as receiver:
        fields = {"song_id": "song/1", "n": 1, "size": 32, "webhook_url": receiver.url("localhost")}
        job = endpoint.http.post("/v1/covers", json=fields, headers={"Prefer": "wait=60"}).json()
        assert job["state"] == "succeeded", job
        deadline = time.monotonic() + 20
        while not receiver.received and time.monotonic() < deadline:
            time.sleep(0.05)
        (came,) = receiver.received
    event = verify(SECRET, came.headers, came.body)
    assert (event.type, event.data.job_id, came.server_name) == ("job.succeeded", job["job_id"], "localhost")


def test_a_batch_is_answered_by_the_runner(endpoint: Endpoint) -> None:
    bodies = {"/v1/covers": {"song_id": "song/1", "n": 1, "size": 32}, "/v1/searches": {"song_id": "song/2", "k": 3}}
    calls = [{"custom_id": url, "method": "POST", "url": url, "body": body} for url, body in bodies.items()]
    with Client(endpoint.url) as client:
        batch = client.batches.create(calls)
        assert client.batches.wait(batch.batch_id, 60).state == "completed"
        covers, search = [line.response for line in client.batches.output(batch.batch_id)]
    assert covers is not None
    assert search is not None
    assert endpoint.http.get(covers.body["images"][0]["url"]).content.startswith(b"\x89PNG")
    assert len(search.body["matches"]) == 3


def test_what_is_not_audio_is_the_callers_problem_and_shows_no_traceback(endpoint: Endpoint) -> None:
    answer = endpoint.http.post("/v1/searches", files={"song": ("x.mp3", b"not a song at all")})
    assert answer.status_code == 415
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "undecodable_audio"
    assert "Traceback" not in answer.text
    assert "ray" not in answer.text


def test_a_song_that_asks_for_gigabytes_is_refused_and_its_replica_goes_on(endpoint: Endpoint) -> None:
    answer = endpoint.http.post("/v1/searches", files={"song": ("bomb.m4a", memory_bomb())})
    assert 400 <= answer.status_code < 500, answer.text
    assert endpoint.http.post("/v1/searches", files=song()).status_code == 200


def test_a_song_longer_than_the_endpoint_takes_is_refused(endpoint: Endpoint) -> None:
    answer = endpoint.http.post("/v1/embeddings", files=song(duration_s=61))
    assert (answer.status_code, answer.json()["code"]) == (413, "audio_too_long")
    assert "limit 60 s; trim it or raise serve.upload_max_duration_s" in answer.json()["detail"]
    assert endpoint.http.get("/v1/releases/current").json()["audio"]["max_duration_s"] == 60


@pytest.mark.parametrize("framing", ["Content-Length: 400000000", "Transfer-Encoding: chunked"])
def test_a_flood_is_refused_before_it_has_ended(endpoint: Endpoint, framing: str) -> None:
    address = httpx.URL(endpoint.url)
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        kind = "Content-Type: multipart/form-data; boundary=f"
        connection.sendall(f"POST /v1/searches HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n{framing}\r\n\r\n".encode())
        if "chunked" in framing:
            part = b'--f\r\nContent-Disposition: form-data; name="song"; filename="a.wav"\r\n\r\n' + b"x" * 4_500_000
            connection.sendall(f"{len(part):x}\r\n".encode() + part + b"\r\n")  # and no end of the body
        answer = connection.recv(100)
    assert answer.startswith(b"HTTP/1.1 413 ")


def test_searches_that_cross_together_are_answered_each_for_itself(endpoint: Endpoint) -> None:
    asked = [{"song_id": f"song/{i % TRACKS}", "k": 1 + i % 7} for i in range(64)]
    refused = {5: {"song_id": "nobody"}, 40: {"song_id": "song/1", "where": {"mood": ["x"]}}}
    alone = [endpoint.http.post("/v1/searches", json=one).json() for one in asked]

    def ask(number: int) -> httpx.Response:
        return endpoint.http.post("/v1/searches", json=refused.get(number, asked[number]))

    with ThreadPoolExecutor(32) as clients:
        answers = list(clients.map(ask, range(len(asked))))
    assert {number: answers[number].status_code for number in refused} == {5: 404, 40: 422}
    for number, answer in enumerate(answers):
        assert number in refused or answer.json() == alone[number]


def test_a_name_that_is_not_the_endpoints_own_is_refused(endpoint: Endpoint) -> None:
    answer = endpoint.http.get("/v1/limits", headers={"Host": "rebound.example.org"})
    assert (answer.status_code, answer.json()["code"]) == (421, "misdirected_request")


def test_unknown_tracks_cross_the_handle_as_404(endpoint: Endpoint) -> None:
    answer = endpoint.http.get("/v1/tracks/nobody")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_track")


def test_ids_with_slashes_reach_their_covers(endpoint: Endpoint) -> None:
    match = endpoint.http.post("/v1/searches", json={"song_id": "song/3", "k": 1}).json()["matches"][0]
    picture = endpoint.http.get(match["cover_url"], params={"size": 48})
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (48, 48)


def test_the_release_is_answered_and_everything_is_ready(endpoint: Endpoint) -> None:
    release = endpoint.http.get("/v1/releases/current").json()
    assert (release["version"], release["covers"]) == ("r1", TRACKS)
    assert endpoint.http.get("/v1/health/ready").json() == {"status": "ready"}


def test_new_covers_are_generated_as_the_manifest_says(endpoint: Endpoint) -> None:
    answer = endpoint.http.post(
        "/v1/covers", files=song(), data={"n": "2", "seed": "11", "size": "32"}, headers={"Prefer": "wait=60"}
    )
    job = answer.json()
    assert (answer.status_code, job["state"]) == (200, "succeeded"), job
    assert job["images"][1]["closest"]["track"]["song_id"].startswith("song/")
    manifest = endpoint.http.get(f"/v1/covers/{job['job_id']}/manifest.json").json()
    release = releases.current(endpoint.workspace)
    pipeline = load_generator(f"{endpoint.workspace.uri}/{release.generator.uri}").model
    assert manifest["generator"]["fingerprint"] == release.generator.fingerprint
    known = {m["track"]["song_id"] for m in job["matches"]}
    assert {n["song_id"] for n in manifest["neighbours"]} == known
    assert len(known) == 4

    index = load_index(f"{endpoint.workspace.uri}/{release.index.uri}")
    ids = tuple(n["song_id"] for n in manifest["neighbours"])
    scores = np.array([n["score"] for n in manifest["neighbours"]], np.float32)
    sources = Sources(ids, scores, np.zeros((0, 3, 0, 0), np.uint8), index.cover_embeddings(ids))
    replayed = pipeline.generate(
        np.asarray(manifest["song_embedding"], np.float32),
        sources,
        seeds=manifest["seeds"],
        request=GenerationRequest(
            size=manifest["settings"]["size"],
            num_inference_steps=manifest["settings"]["num_inference_steps"],
            guidance_scale=manifest["settings"]["guidance_scale"],
        ),
        on_step=lambda _done, _steps: None,
    )
    for image, cover in zip(job["images"], replayed, strict=True):
        served = np.asarray(Image.open(io.BytesIO(endpoint.http.get(image["url"]).content))).transpose(2, 0, 1)
        assert np.abs(served.astype(int) - cover.pixels.astype(int)).max() <= 1


def test_a_picture_of_a_job_has_the_bytes_it_has_as_the_only_one(endpoint: Endpoint) -> None:
    def pictures(n: int, seed: int) -> list[bytes]:
        asked = {"song_id": "song/1", "n": n, "seed": seed, "size": 32}
        job = endpoint.http.post("/v1/covers", json=asked, headers={"Prefer": "wait=60"}).json()
        return [endpoint.http.get(image["url"]).content for image in job["images"]]

    together = pictures(3, 20)
    assert len(set(together)) == 3
    assert together == [pictures(1, seed)[0] for seed in (20, 21, 22)]


def test_events_stream_while_the_job_runs_and_resume(endpoint: Endpoint) -> None:
    job = endpoint.http.post("/v1/covers", json={"song_id": "song/1", "n": 1, "num_inference_steps": 1000}).json()
    path = f"/v1/covers/{job['job_id']}/events"
    arrived: list[float] = []
    text = ""
    with endpoint.http.stream("GET", path) as stream:
        for part in stream.iter_text():
            arrived.append(time.monotonic())
            text += part
    sent = events(text)
    assert (sent[0]["state"], sent[-1]["state"]) == ("queued", "succeeded")
    assert [t["progress"] for t in sent] == sorted(t["progress"] for t in sent)
    assert len(arrived) > 1
    resumed = events(endpoint.http.get(path, headers={"Last-Event-ID": str(len(sent) - 1)}).text)
    assert [t["state"] for t in resumed] == ["succeeded"]


def test_cancelling_frees_the_generator_for_the_next_job(endpoint: Endpoint) -> None:
    slow = {"song_id": "song/1", "n": 8, "num_inference_steps": STEPS_MAX}
    first, waiting = (endpoint.http.post("/v1/covers", json=slow).json() for _ in range(2))
    seen: list[tuple[float, float]] = []  # when, how far the first was
    while not seen or seen[-1][1] < 0.02:
        assert len(seen) < 3000
        time.sleep(0.02)
        progress = endpoint.http.get(f"/v1/covers/{first['job_id']}").json()["progress"]
        seen += [(time.monotonic(), progress)] if progress else []
    assert endpoint.http.get(f"/v1/covers/{waiting['job_id']}").json()["position"] == 0
    (began, at_first), (ended, at_last) = seen[0], seen[-1]
    in_full_s = (ended - began) / (at_last - at_first)
    for job in (first, waiting):
        assert endpoint.http.delete(f"/v1/covers/{job['job_id']}").json()["state"] == "cancelled"
    quick = endpoint.http.post("/v1/covers", json={"song_id": "song/2", "n": 1}, headers={"Prefer": "wait=60"}).json()
    assert quick["state"] == "succeeded"
    assert time.monotonic() - ended < 0.5 * in_full_s, "what was cancelled was generated to its end"


def test_a_song_withdrawn_while_its_job_waits_contributes_nothing(endpoint: Endpoint) -> None:
    slow = {"song_id": "song/1", "n": 8, "num_inference_steps": STEPS_MAX}
    quick = {"song_id": "song/2", "n": 1}
    first, waiting = (endpoint.http.post("/v1/covers", json=order).json() for order in (slow, quick))
    gone = waiting["matches"][0]["track"]["song_id"]
    assert endpoint.http.delete(f"/v1/tracks/{gone}").status_code == 204
    endpoint.http.delete(f"/v1/covers/{first['job_id']}")
    events_of = endpoint.http.get(f"/v1/covers/{waiting['job_id']}/events").text
    job = events(events_of)[-1]
    assert job["state"] == "succeeded", job
    taken = [match["track"]["song_id"] for match in job["matches"]]
    assert len(taken) == 4
    assert gone not in taken
    manifest = endpoint.http.get(f"/v1/covers/{waiting['job_id']}/manifest.json").json()
    assert gone not in {one["song_id"] for one in manifest["neighbours"]}


def test_a_full_table_answers_429(endpoint: Endpoint) -> None:
    slow = {"song_id": "song/1", "n": 8, "num_inference_steps": STEPS_MAX}
    jobs = [endpoint.http.post("/v1/covers", json=slow).json() for _ in range(3)]
    refused = endpoint.http.post("/v1/covers", json=slow)
    assert (refused.status_code, refused.json()["code"]) == (429, "overloaded")
    assert int(refused.headers["retry-after"]) > 0
    for job in jobs:
        endpoint.http.delete(f"/v1/covers/{job['job_id']}")


def test_a_job_survives_the_loss_of_the_connection_that_ordered_it(endpoint: Endpoint) -> None:
    order = {"song_id": "song/1", "n": 2, "num_inference_steps": 200, "seed": 1}
    key = {"Idempotency-Key": "lost"}
    with httpx.Client(base_url=endpoint.url, timeout=0.3) as impatient, pytest.raises(httpx.ReadTimeout):
        impatient.post("/v1/covers", json=order, headers=key | {"Prefer": "wait=60"})
    job = endpoint.http.post("/v1/covers", json=order, headers=key | {"Prefer": "wait=60"}).json()
    assert job["state"] == "succeeded", job


@pytest.mark.chaos
def test_a_lost_generator_costs_time_and_no_job(endpoint: Endpoint) -> None:
    job = endpoint.http.post("/v1/covers", json={"song_id": "song/1", "n": 2, "num_inference_steps": 300}).json()
    deadline = time.monotonic() + 30
    while endpoint.http.get(f"/v1/covers/{job['job_id']}").json()["progress"] < 0.1:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    replicas = [a for a in ray.util.list_named_actors(all_namespaces=True) if "#CoverGenerator#" in a["name"]]
    ray.kill(ray.get_actor(replicas[0]["name"], namespace=replicas[0]["namespace"]))
    deadline = time.monotonic() + 60
    while (state := endpoint.http.get(f"/v1/covers/{job['job_id']}").json()["state"]) == "running":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert state == "succeeded"


def test_the_served_encoder_gives_the_embedding_that_the_library_gives(endpoint: Endpoint) -> None:
    release = releases.current(endpoint.workspace)
    encoder = load_encoder(f"{endpoint.workspace.uri}/{release.encoder.uri}")
    served = endpoint.http.post("/v1/embeddings", files=song()).json()["embedding"]
    windows = extract_log_mel(song()["song"][1], encoder.audio)
    np.testing.assert_allclose(served, encoder.embed_song(windows.log_mel), atol=1e-6)


def test_a_client_made_from_the_description_reads_a_finished_job(endpoint: Endpoint, tmp_path: Path) -> None:
    package = generated_client(endpoint.http.get("/openapi.json").json(), tmp_path)
    covers = {
        name: importlib.import_module(f"gatefold_client.api.covers.{name}") for name in ("covers_get", "covers_image")
    }
    client = package.Client(base_url=endpoint.url)
    order = {"song_id": "song/1", "n": 1}
    made = endpoint.http.post("/v1/covers", json=order, headers={"Prefer": "wait=60"}).json()
    job_id = made["job_id"]
    job = covers["covers_get"].sync(job_id, client=client)
    assert (job.job_id, str(job.state), job.request.n) == (job_id, "succeeded", 1)
    assert [match.rank for match in job.matches][:2] == [1, 2]
    picture = covers["covers_image"].sync(job_id, 0, client=client)
    assert picture.payload.read()[:8] == b"\x89PNG\r\n\x1a\n"


def test_a_job_is_followed_by_its_trace_its_logs_and_its_metrics(endpoint: Endpoint) -> None:
    trace, sent = f"{0xFACADE:032x}", {"X-Request-Id": "order-77", "Prefer": "wait=60"}
    sent["traceparent"] = f"00-{trace}-{7:016x}-01"
    job = endpoint.http.post("/v1/covers", files=song(), data={"n": "1"}, headers=sent).json()
    assert job["state"] == "succeeded", job
    missing = endpoint.http.get("/v1/tracks/nobody", headers={"X-Request-Id": "two words"})
    assert missing.status_code == 400

    names = {
        "POST /v1/covers", "SongEncoder.encode_song", "decode", "encode", "CoverRetriever.search", "run job",
        "CoverGenerator.generate", "SongEncoder.embed_covers", "store covers",
    }  # fmt: skip
    spans = within(10, lambda: {s.span_id: s for s in endpoint.collector.spans if s.trace_id.hex() == trace},
                   lambda found: names <= {s.name for s in found.values()})  # fmt: skip
    for span in spans.values():  # up to the caller's own
        assert span.parent_span_id in spans or span.parent_span_id.hex() == f"{7:016x}", span.name
    assert endpoint.collector.services == {"gatefold"}

    of_job = {("Runner", job["job_id"]), ("CoverGenerator", job["job_id"])}
    of_request: set[tuple[str, str | None]] = {("Api", None), ("SongEncoder", None), ("CoverGenerator", None)}
    within(10, lambda: logged("order-77"), lambda found: of_job | of_request <= found)

    counted = (metrics.JOBS, metrics.OLDEST_QUEUED, metrics.JOBS_ENDED, metrics.SEARCHES, metrics.COVERS)
    observed = (metrics.JOB_WAIT, metrics.DECODE, metrics.ENCODE, metrics.SEARCH, metrics.GENERATE)
    expected = {f"ray_{one.name}" for one in counted} | {f"ray_{one.name}_bucket" for one in observed} | OF_RAY_SERVE
    within(30, names_exported, lambda found: expected <= found)


@pytest.mark.usefixtures("ray_cluster")
def test_a_workspace_without_a_release_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BundleNotFound, match="gatefold release"):
        deploy(CONFIG, workspace=str(tmp_path), examples=None, host="127.0.0.1", port=free_port())


def test_another_port_than_the_one_served_on_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(InvalidSettings, match="serves on"):
        deploy(CONFIG, workspace=endpoint.workspace.uri, examples=None, host="127.0.0.1", port=1)
