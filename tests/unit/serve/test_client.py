"""`gatefold.client` against the running application, over a socket and in this process, and its models against the
description."""

import asyncio
import hashlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from gatefold.client import AsyncClient, Client, batches, models, webhooks
from gatefold.client.errors import (
    BatchUnfinished,
    JobCancelled,
    JobFailed,
    KeyRefused,
    NotThere,
    RequestConflict,
    RequestRefused,
)
from gatefold.config import ServeSettings
from gatefold.errors import NoSources
from tests.listening import listening

KEY = "open sesame"
HASH = hashlib.sha256(KEY.encode()).hexdigest()
MODELS: dict[str, type[BaseModel]] = {
    "Problem": models.ProblemDetails, "Track": models.TrackInfo, "TrackView": models.TrackAnswer,
    "SongView": models.EncodedSong, "MatchView": models.FoundCover, "SearchResult": models.SearchAnswer,
    "EmbeddingResult": models.EmbeddingAnswer, "CoverRequestView": models.JobSettings, "ImageView": models.CoverImage,
    "RefusedView": models.RefusedCover, "SourceView": models.CoverSource, "SourcesView": models.CoverSources,
    "JobView": models.JobStatus,
    "JobList": models.JobPage, "PartView": models.BundleInfo, "ReleaseView": models.ReleaseInfo,
    "NeighbourView": models.NeighbourScore, "CoverManifest": models.JobManifest, "Health": models.HealthAnswer,
    "WebhookEvent": webhooks.WebhookEvent, "DeliveryView": webhooks.WebhookDelivery,
    "DeliveryList": webhooks.DeliveryPage,
    "AttemptView": webhooks.DeliveryAttempt, "BatchView": batches.BatchStatus, "BatchCounts": batches.BatchTally,
    "BatchLineAnswer": batches.BatchLine, "BatchLineResponse": batches.BatchResponse,
    "BatchLineError": batches.BatchError, "LimitsView": models.LimitsAnswer, "UsageView": models.UsageDay,
    "UsageList": models.UsageAnswer, "AuditEntryView": models.AuditEntry, "AuditList": models.AuditPage,
}  # fmt: skip
"""By the name in the description, what the client makes of it."""


def test_the_models_have_the_fields_of_the_description(endpoint: Callable[..., Any]) -> None:
    schemas = endpoint().client.get("/openapi.json").json()["components"]["schemas"]
    for name, model in MODELS.items():
        described, known = set(schemas[name]["properties"]), set(model.model_fields)
        assert described - known == set(), f"{model.__name__} lacks fields of {name}"
        required = {field for field in known - described if model.model_fields[field].is_required()}
        assert required == set(), f"{model.__name__} demands fields that {name} has not"


def test_every_model_is_compared() -> None:
    defined = {
        kind for module in (batches, models, webhooks) for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, BaseModel) and kind not in (BaseModel, models.Answer)
    }  # fmt: skip
    assert defined == set(MODELS.values())


def test_a_song_becomes_covers_in_a_folder(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    e = endpoint()
    song, seen = tmp_path / "song.ogg", list[str]()
    song.write_bytes(b"12345")
    e.generator.refuses = {8}
    with listening(e.build()) as url, Client(url) as client:
        job = client.generate(song, n=3, seed=7, size=64)
        job.wait(20, lambda status: seen.append(status.state))
        assert (job.status.request.seed, [image.seed for image in job.images]) == (7, [7, 9])
        assert [refused.code for refused in job.status.refused] == ["too_much_of_one_source"]
        assert seen[-1] == "succeeded"
        paths = job.save(tmp_path / "covers", picture_format="jpeg", size=32)
        assert [path.name for path in paths] == ["cover-7.jpg", "cover-9.jpg"]
        assert paths[0].read_bytes() == job.image(0, picture_format="jpeg", size=32)
        assert sorted(path.name for path in (tmp_path / "covers").iterdir())[-1] == "manifest.json"
        manifest = json.loads((tmp_path / "covers" / "manifest.json").read_text())
        assert manifest["seeds"] == job.manifest().seeds == [7, 8, 9]
        assert [source.song_id for source in job.sources(0)] == ["t0", "t1"]
        assert job.sources_map(0).startswith(b"\x89PNG")
        assert [status.state for status in client.job(job.job_id).events()][-1] == "succeeded"
    assert e.encoder.encoded == ["song.ogg"]


def test_songs_are_found_by_file_bytes_id_and_embedding(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    song = tmp_path / "song.ogg"
    song.write_bytes(b"12345")
    e = endpoint()
    with listening(e.build()) as url, Client(url) as client:
        embedded = client.embed(song)
        assert client.search(song, k=3, spectrogram=True).song is not None
        assert client.search(b"12345", k=3, exclude_song_ids=["t0"], where={"genre": ["jazz"]}).matches[0].rank == 1
        assert [match.track.song_id for match in client.search(song_id="t5", k=2).matches] == ["t0", "t1"]
        assert len(client.search(embedding=embedded, k=4).matches) == 4
        assert len(client.search(embedding=embedded.embedding, encoder=embedded.encoder).matches) == 20
        assert (client.track("t5").track.title, client.releases.current().covers) == ("T", 20)
        assert (client.health("live").status, client.health().status) == ("live", "ready")
        client.withdraw("t5")
        with pytest.raises(RequestRefused, match="silent_audio"):
            client.search(b"silence")
        with pytest.raises(NotThere, match="unknown_track"):
            client.track("nobody")
    assert sorted(e.active.optouts.song_ids) == ["t5"]
    assert e.retriever.asked[1].filters.exclude_song_ids == {"t0"}


def test_jobs_are_listed_page_by_page_and_exported(endpoint: Callable[..., Any]) -> None:
    with listening(endpoint().build()) as url, Client(url) as client:
        jobs = [client.generate(song_id="t3", n=1, seed=seed).wait(20) for seed in range(3)]
        first = client.jobs("succeeded", limit=2)
        rest = client.jobs("succeeded", limit=2, after=first.after)
        assert [one.job_id for one in first.jobs + rest.jobs] == [job.job_id for job in reversed(jobs)]
        assert (rest.after, client.jobs("failed").jobs) == (None, [])
        assert jobs[0].image(0, size=32, picture_format="webp", quality=50)[8:12] == b"WEBP"
        assert jobs[0].export(0, "bandcamp", title="T", artist="A").startswith(b"\xff\xd8")
        assert jobs[0].status.expires_at is not None
        again = client.generate(song_id="t3", n=1, idempotency_key="k")
        assert (again.replayed, client.generate(song_id="t3", n=1, idempotency_key="k").replayed) == (False, True)


def test_a_batch_is_sent_as_a_file_or_as_calls_and_its_answers_are_read_line_by_line(
    endpoint: Callable[..., Any], tmp_path: Path
) -> None:
    calls = [
        {"custom_id": name, "method": "POST", "url": "/v1/searches", "body": {"song_id": song_id, "k": 1}}
        for name, song_id in (("a\u2028b", "t1"), ("c", "nobody"))
    ]
    (tmp_path / "batch.jsonl").write_text("\n".join(json.dumps(call) for call in calls))
    e = endpoint()
    with listening(e.build()) as url, Client(url) as client:
        for batch in (calls, tmp_path / "batch.jsonl"):
            made = client.batches.create(batch)
            done = client.batches.wait(made.batch_id, 20)
            assert (done.state, done.counts.succeeded, done.counts.failed) == ("completed", 1, 1)
            (found,) = client.batches.output(made.batch_id)
            assert found.custom_id == "a\u2028b"
            assert found.response is not None
            assert models.SearchAnswer.model_validate(found.response.body).matches[0].rank == 1
            assert [line.custom_id for line in client.batches.errors(made.batch_id)] == ["c"]
        with pytest.raises(RequestRefused, match="1 lines are wrong"):
            client.batches.create([calls[0] | {"method": "GET"}])
        e.generator.hold = True
        cover = {"custom_id": "x", "method": "POST", "url": "/v1/covers", "body": {"song_id": "t1"}}
        waits = client.batches.create([cover])
        with pytest.raises(BatchUnfinished, match="still running"):
            client.batches.wait(waits.batch_id, 0.01)
        assert client.batches.cancel(waits.batch_id).state == "cancelled"


def test_a_job_is_cancelled(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.hold = True
    with listening(e.build()) as url, Client(url) as client:
        job = client.generate(song_id="t3")
        assert job.cancel().state == "cancelled"
        with pytest.raises(JobCancelled):
            job.wait(5)


def test_a_job_that_fails_says_why(endpoint: Callable[..., Any]) -> None:
    e = endpoint()
    e.generator.failure = NoSources("none left")
    with listening(e.build()) as url, Client(url) as client, pytest.raises(JobFailed, match="no_sources: none left"):
        client.generate(song_id="t3").wait(20)


def test_the_same_key_gives_the_same_job_and_another_request_is_a_conflict(endpoint: Callable[..., Any]) -> None:
    with listening(endpoint().build()) as url, Client(url) as client:
        first, again = (client.generate(song_id="t3", seed=1, idempotency_key="k") for _ in range(2))
        assert first.job_id == again.job_id
        with pytest.raises(RequestConflict, match="idempotency_conflict"):
            client.generate(song_id="t3", seed=2, idempotency_key="k")


def test_an_api_key_opens_the_endpoint(endpoint: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(endpoint(keys=HASH).build()) as url:
        with Client(url, api_key="wrong") as client, pytest.raises(KeyRefused, match="not known"):
            client.track("t1")
        monkeypatch.setenv("GATEFOLD_API_KEY", KEY)
        with Client(url) as client:
            assert client.track("t1").track.song_id == "t1"


def test_an_upload_above_the_limit_is_a_413(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    song = tmp_path / "song.ogg"
    song.write_bytes(bytes(5_000_000))
    app = endpoint(ServeSettings(upload_max_bytes=2000)).build()
    with listening(app) as url, Client(url) as client, pytest.raises(RequestRefused) as refused:
        client.search(song)
    assert (refused.value.status, refused.value.code) == (413, "too_large")


def test_the_asynchronous_client_does_the_same(endpoint: Callable[..., Any], tmp_path: Path) -> None:
    song = tmp_path / "song.ogg"
    song.write_bytes(b"12345")

    async def use(url: str, transport: httpx.AsyncBaseTransport | None) -> None:
        async with AsyncClient(url, transport=transport) as client:
            job = await client.generate(song, n=2, seed=3, size=64)
            assert [status.state async for status in job.events()][-1] == "succeeded"
            await job.wait(20)
            assert len(await job.save(tmp_path / "covers")) == 2
            assert (await job.manifest()).seeds == [3, 4]
            assert (await job.sources(0))[0].share == 0.5
            assert len((await client.search(embedding=await client.embed(song), k=2)).matches) == 2
            assert (await client.releases.current()).version == "r1"
            call = {"custom_id": "a", "method": "POST", "url": "/v1/searches", "body": {"song_id": "t1"}}
            batch = await client.batches.create([call])
            assert (await client.batches.wait(batch.batch_id, 20)).counts.succeeded == 1
            assert [line.custom_id async for line in client.batches.output(batch.batch_id)] == ["a"]
            assert [line async for line in client.batches.errors(batch.batch_id)] == []
            assert (await client.batches.cancel(batch.batch_id)).state == "completed"

    e = endpoint()
    asyncio.run(use("http://localhost", httpx.ASGITransport(e.client.app)))
    with listening(endpoint().build()) as url:
        asyncio.run(use(url, None))
