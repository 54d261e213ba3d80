"""Every limit is one number: in `GET /v1/limits`, in OpenAPI, and in the answer to a request that exceeds it."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from ray.serve.exceptions import BackPressureError

from gatefold.audio.spectrograms import extract_log_mel
from gatefold.config import AudioSettings, ServeSettings, UploadAudioSettings
from gatefold.errors import AudioTooLong, Overloaded
from gatefold.serve_settings import JobBatchSettings
from gatefold.workspace import Workspace
from serve.api import limits
from serve.api.contracts import LimitsView
from serve.app import ReleaseArgs, build_release
from serve.deployments.handles import to_domain_error
from tests.factories import publish_small_release

SONG = {"song": ("a.wav", b"12345")}
SEARCH, COVERS = ("paths", "/v1/searches", "post"), ("paths", "/v1/covers", "post")
FORM, JSON = ("requestBody", "content", "multipart/form-data"), ("requestBody", "content", "application/json")
EXPORT = ("paths", "/v1/covers/{job_id}/images/{index}/export", "post")
BATCHES = ("paths", "/v1/batches", "post", "requestBody", "content", "application/jsonl", "schema")
SETTINGS = ServeSettings(
    upload_max_bytes=70_000, upload_max_duration_s=61, form_fields_max=17, form_fields_max_bytes=1025,
    json_max_bytes=1026, songs_queued_max=7, k_max=51, n_max=3, size_max=257, steps_max=11, jobs_max=6,
    results_kept_s=5, wait_max_s=2.5, uploads_max_bytes=71_000, bodies_max=901, body_timeout_s=9, body_min_rate=15_000,
    decode_timeout_s=59, batches=JobBatchSettings(lines_max=49),
)  # fmt: skip


def fields(operation: tuple[str, ...], name: str, body: tuple[str, ...] = FORM) -> tuple[str, ...]:
    return (*operation, *body, "schema", "properties", name)


@dataclass(frozen=True)
class Row:
    """Where a limit stands in OpenAPI, and a request that exceeds it."""

    place: tuple[str, ...]
    send: Callable[[Any], Any] | None
    status: int = 422
    set_to: float | None = None
    """of the setting of the same name; None for a constant"""


def search(**body: Any) -> Callable[[Any], Any]:
    return lambda client: client.post("/v1/searches", json={"song_id": "t3", **body})


def form(song: bytes = b"12345", **data: Any) -> Callable[[Any], Any]:
    return lambda client: client.post("/v1/searches", files={"song": ("a.wav", song)}, data=data)


def covers(**body: Any) -> Callable[[Any], Any]:
    return lambda client: client.post("/v1/covers", json={"song_id": "t3", **body})


def lines(call: dict[str, Any]) -> Callable[[Any], Any]:
    whole = {"custom_id": "a", "method": "POST", "url": "/v1/searches", "body": {"song_id": "t3"}} | call
    return lambda client: client.post(
        "/v1/batches", content=json.dumps(whole), headers={"Content-Type": "application/jsonl"}
    )


def with_key(client: Any) -> Any:
    return client.post("/v1/covers", json={"song_id": "t3"}, headers={"Idempotency-Key": "k" * 256})


def embedding(client: Any) -> Any:
    return client.post("/v1/searches", json={"embedding": [1.0] * 65_537, "encoder": "encoder-1"})


def two_jobs(client: Any) -> Any:
    covers()(client)
    return covers()(client)


ROWS = {
    "upload_max_bytes": Row((*fields(SEARCH, "song"), "maxLength"), form(b"x" * 1001), 413, 1000),
    "upload_max_duration_s": Row((*fields(SEARCH, "song"), "x-max-duration-s"), None),
    "uploads_max_bytes": Row((*SEARCH, *FORM, "x-max-uploads-bytes"), None),
    "bodies_max": Row((*SEARCH, *FORM, "x-max-bodies"), None),
    "body_timeout_s": Row((*SEARCH, *FORM, "x-body-timeout-s"), None),
    "body_min_rate": Row((*SEARCH, *FORM, "x-body-min-rate"), None),
    "decode_timeout_s": Row((*fields(SEARCH, "song"), "x-max-decoding-s"), None),
    "form_fields_max": Row((*SEARCH, *FORM, "schema", "x-max-fields"), form(genres=["x"] * 17), 413, 16),
    "form_fields_max_bytes": Row(
        (*SEARCH, *FORM, "schema", "x-max-fields-bytes"), form(genres=["x" * 600] * 2), 413, 1024
    ),
    "json_max_bytes": Row((*SEARCH, *JSON, "schema", "x-max-bytes"), search(genres=["x" * 1100]), 413, 1024),
    "k_max": Row((*fields(SEARCH, "k"), "maximum"), search(k=6), 422, 5),
    "n_max": Row((*fields(COVERS, "n", JSON), "maximum"), covers(n=3), 422, 2),
    "size_min": Row((*fields(COVERS, "size"), "minimum"), covers(size=15)),
    "size_max": Row((*fields(COVERS, "size"), "maximum"), covers(size=65), 422, 64),
    "image_size_max": Row(
        ("paths", "/v1/covers/{job_id}/images/{index}", "get", "parameters", "2", "schema", "anyOf", "0", "maximum"),
        lambda client: client.get("/v1/covers/x/images/0?size=65"),
        422,
        64,
    ),
    "exports_queued_max": Row((*EXPORT, "x-max-queued"), None),
    "steps_max": Row(
        (*fields(COVERS, "num_inference_steps"), "anyOf", "0", "maximum"), covers(num_inference_steps=11), 422, 10
    ),
    "guidance_max": Row((*fields(COVERS, "guidance_scale"), "anyOf", "0", "maximum"), covers(guidance_scale=20.5)),
    "seed_max": Row((*fields(COVERS, "seed"), "anyOf", "0", "maximum"), covers(seed=2**63, n=1)),
    "list_max": Row((*fields(SEARCH, "genres"), "maxItems"), search(genres=["x"] * 1001)),
    "columns_max": Row((*fields(SEARCH, "where"), "maxProperties"), search(where={str(i): ["x"] for i in range(17)})),
    "embedding_max": Row((*SEARCH, *JSON, "schema", "oneOf", "1", "properties", "embedding", "maxItems"), embedding),
    "idempotency_key_max": Row((*COVERS, "parameters", "1", "schema", "anyOf", "0", "maxLength"), with_key),
    "songs_queued_max": Row((*SEARCH, *FORM, "x-max-queued"), None),
    "jobs_max": Row((*COVERS, "x-max-jobs"), two_jobs, 429, 1),
    "results_kept_s": Row(
        ("paths", "/v1/covers/{job_id}", "get", "x-results-kept-s"), lambda client: client.get("/v1/covers/x"), 404, 3
    ),
    "wait_max_s": Row((*COVERS, "parameters", "0", "schema", "x-max-wait-s"), None),
    "jobs_listed_max": Row(
        ("paths", "/v1/covers", "get", "parameters", "1", "schema", "maximum"),
        lambda client: client.get("/v1/covers?limit=101"),
    ),
    "batch_lines_max": Row((*BATCHES, "x-max-lines"), None),
    "custom_id_max": Row((*BATCHES, "x-max-custom-id"), lines({"custom_id": "x" * 129})),
    "text_max": Row(
        (*fields(EXPORT, "title", JSON), "anyOf", "0", "maxLength"),
        lambda client: client.post("/v1/covers/x/images/0/export", json={"profile": "spotify", "title": "x" * 301}),
    ),
    "webhook_url_max": Row((*fields(COVERS, "webhook_url"), "anyOf", "0", "maxLength"), covers(
        webhook_url="https://example.org/" + "x" * 2048
    )),
}


def found(description: Any, place: tuple[str, ...]) -> Any:
    for step in place:
        description = description[int(step) if isinstance(description, list) else step]
    return description


def test_every_limit_stands_in_openapi_as_it_is_answered(endpoint: Callable[..., Any]) -> None:
    client = endpoint(SETTINGS).client
    description, limits = client.get("/openapi.json").json(), client.get("/v1/limits").json()
    assert {name: found(description, row.place) for name, row in ROWS.items()} == limits
    assert limits == {name: limits[name] for name in LimitsView.model_fields}
    settings = SETTINGS.model_dump()
    decided = {name: settings[name] for name in limits if name in settings}
    assert len(decided) == 20
    assert {name: limits[name] for name in decided} == decided
    assert "x-limit" not in client.get("/openapi.json").text


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.send])
def test_a_request_above_a_limit_is_refused_by_its_number_and_its_setting(
    endpoint: Callable[..., Any], name: str
) -> None:
    row = ROWS[name]
    e = endpoint(ServeSettings() if row.set_to is None else ServeSettings.model_validate({name: row.set_to}))
    e.generator.hold = True
    assert row.send is not None
    answer = row.send(e.client)
    limit = e.client.get("/v1/limits").json()[name]
    assert answer.status_code == row.status, answer.text
    detail = answer.json()["detail"]
    assert f"{limit:g}" in detail.replace(",", "") or str(limit) in detail
    assert row.set_to is None or f"serve.{name}" in detail


def test_a_song_that_lasts_too_long_is_refused_by_the_endpoints_setting() -> None:
    sink = io.BytesIO()
    soundfile.write(sink, np.tile([0.1, -0.1], 24_000), 16_000, format="WAV")
    settings = UploadAudioSettings.of(AudioSettings(max_duration_s=2), ServeSettings(upload_max_duration_s=3))
    assert extract_log_mel(sink.getvalue(), settings).duration_s == 3
    settings = UploadAudioSettings.of(AudioSettings(), ServeSettings(upload_max_duration_s=2))
    with pytest.raises(AudioTooLong, match=r"limit 2 s; trim it or raise serve\.upload_max_duration_s"):
        extract_log_mel(sink.getvalue(), settings)


def test_the_queue_of_the_encoder_is_as_long_as_its_setting(tmp_path: Path) -> None:
    publish_small_release(Workspace(tmp_path.as_uri()), 3)
    args = ReleaseArgs(workspace=str(tmp_path), limits=ServeSettings(songs_queued_max=7))
    _, encoder, *_ = build_release(args)._bound_deployment.init_args
    assert encoder._bound_deployment.max_queued_requests == 7
    refused = to_domain_error(BackPressureError(num_queued_requests=7, max_queued_requests=7))
    assert isinstance(refused, Overloaded)
    assert "7 uploaded songs wait for the encoder, at most 7 (serve.songs_queued_max)" in refused.message


def test_waiting_longer_than_the_limit_is_shortened_to_it(endpoint: Callable[..., Any]) -> None:
    e = endpoint(ServeSettings(wait_max_s=0.05))
    e.generator.hold = True
    answer = e.client.post("/v1/covers", json={"song_id": "t3"}, headers={"Prefer": "wait=60"})
    assert answer.headers["preference-applied"] == "wait=0.05"


def test_a_list_as_long_as_allowed_passes_in_a_form(endpoint: Callable[..., Any]) -> None:
    ids = [f"an-id-as-long-as-they-are-{i:032d}" for i in range(limits.LIST_MAX)]
    lists: dict[str, Any] = {"exclude_song_ids": ids, "exclude_artists": ids, "genres": ids}
    assert form(**lists)(endpoint().client).status_code == 200


def test_a_default_above_a_limit_is_described_as_it_is_applied(endpoint: Callable[..., Any]) -> None:
    description = endpoint(ServeSettings(k_max=5)).client.get("/openapi.json").json()
    assert found(description, fields(SEARCH, "k"))["default"] == 5
