"""What the endpoint counts and traces while it works, over the API and what runs its jobs."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gatefold.config import ServeSettings
from gatefold.errors import DatabaseUnavailable, PreflightFailed, StorageUnavailable, Unavailable
from gatefold.storage import objects
from gatefold.storage.contents import optouts
from gatefold.workspace import Workspace
from serve.deployments.generator import _count, run_with_progress
from serve.jobs.database import Database
from serve.observability import metrics
from serve.observability.carried import Carried, carrying, current
from serve.observability.logs import add_carried_fields
from serve.optout_filter import OptOuts
from tests.observed import Counted, Traced
from tests.served import free_port
from tests.unit.serve.conftest import Generator
from tests.unit.serve.jobs.conftest import soon

SONG = {"song": ("x.mp3", b"12345")}
WAIT = {"Prefer": "wait=20"}
TRACE, PARENT = "ab" * 16, "cd" * 8


def test_a_trace_goes_from_the_upload_to_the_pictures(endpoint: Callable[..., Any], traced: Traced) -> None:
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "r-1"}
    job = endpoint().client.post("/v1/covers", files=SONG, data={"n": "2"}, headers=WAIT | sent).json()
    assert job["state"] == "succeeded"
    accepted, ran, stored = (traced.named(name) for name in ("POST /v1/covers", "run job", "store covers"))
    assert {one.trace for one in traced.spans} == {TRACE}
    assert (accepted.parent, ran.parent, stored.parent) == (PARENT, accepted.id, ran.id)
    expected = {"gatefold.request_id": "r-1", "gatefold.job_id": job["job_id"]}
    assert ran.attributes == stored.attributes == expected


def test_what_runs_a_job_logs_under_it_and_under_the_key_it_came_with(
    endpoint: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    key, digest = "secret", "2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"
    there = endpoint(keys=digest)
    there.generator.failure = Unavailable("the store does not answer")
    before = logging.getLogRecordFactory()
    try:
        add_carried_fields()
        headers = {"Authorization": f"Bearer {key}"}
        job = there.client.post("/v1/covers", files=SONG, headers=WAIT | headers).json()
    finally:
        logging.setLogRecordFactory(before)
    (record, *_) = [one for one in caplog.records if "was not finished" in one.message]
    assert (record.covers_job_id, record.key_prefix) == (job["job_id"], f"sha256:{digest[:8]}")  # type: ignore[attr-defined]


def test_jobs_are_counted_as_they_wait_and_end(endpoint: Callable[..., Any], counted: Counted) -> None:
    there = endpoint()
    there.client.post("/v1/covers", files=SONG, headers=WAIT)
    there.generator.failure = RuntimeError("secret")
    there.client.post("/v1/covers", files=SONG, headers=WAIT)
    there.generator.failure, there.generator.hold = None, True
    held = there.client.post("/v1/covers", files=SONG).json()["job_id"]
    there.client.delete(f"/v1/covers/{held}")
    there.client.delete(f"/v1/covers/{held}")
    assert {state: sum(counted.of(metrics.JOBS_ENDED, state)) for state in ("succeeded", "failed", "cancelled")} == {
        "succeeded": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    assert counted.of(metrics.JOB_FAILURES, "internal_error") == [1]
    waits = counted.of(metrics.JOB_WAIT)
    assert len(waits) >= 2
    assert all(0 <= seconds < 20 for seconds in waits)
    assert counted.of(metrics.JOBS, "running", "single")
    assert counted.of(metrics.OLDEST_QUEUED)


def test_a_database_that_is_away_is_counted(counted: Counted) -> None:
    async def main() -> None:
        database = Database(f"postgresql://me@127.0.0.1:{free_port()}/jobs")
        for _ in range(2):
            with pytest.raises(DatabaseUnavailable):
                await database.upgrade()
        await database.close()

    asyncio.run(main())
    assert counted.of(metrics.DATABASE_FAILURES) == [1, 1]


def test_refused_covers_are_counted_by_reason(counted: Counted) -> None:
    generator = Generator(refuses={1, 2})
    _count([generator._cover(seed) for seed in range(5)])
    assert counted.of(metrics.COVERS) == [3]
    assert counted.of(metrics.REFUSALS, "too_much_of_one_source") == [1, 1]


def test_the_lag_of_an_opt_out_is_from_its_writing_to_its_application(tmp_path: Path, counted: Counted) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    first, second = OptOuts(workspace), OptOuts(workspace)
    at = (datetime.now(UTC) - timedelta(seconds=40)).isoformat(timespec="milliseconds")
    asyncio.run(first.withdraw("s1"))
    (written,) = objects.list_folder(workspace.optouts)
    objects.put(written.uri, optouts.OptOut(song_id="s1", at=at).model_dump_json().encode())
    (own,) = counted.of(metrics.OPTOUT_LAG)
    assert own < 30
    asyncio.run(second.refresh())
    asyncio.run(second.refresh())
    asyncio.run(first.refresh())
    own, lag = counted.of(metrics.OPTOUT_LAG)
    assert 40 <= lag < 70


def test_opt_outs_that_cannot_be_read_are_counted_and_the_known_ones_hold(
    tmp_path: Path, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(objects.resolve(str(tmp_path)))
    optouts.withdraw(workspace, "s1")
    known = OptOuts(workspace)

    def away(*_: object) -> None:
        raise StorageUnavailable("the store does not answer")

    monkeypatch.setattr("serve.optout_filter.optouts.read_all", away)

    async def main() -> None:
        refreshing = asyncio.create_task(known.keep_refreshing(0.001))

        async def failed() -> bool:
            return len(counted.of(metrics.OPTOUT_READ_FAILURES)) > 2

        await soon(failed)
        refreshing.cancel()

    asyncio.run(main())
    assert known.song_ids == {"s1"}


def test_exports_that_fail_are_counted_by_code(
    endpoint: Callable[..., Any], counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = endpoint(ServeSettings())
    job = there.client.post("/v1/covers", files=SONG, data={"n": "1"}, headers=WAIT).json()
    address = f"/v1/covers/{job['job_id']}/images/0/export"
    assert there.client.post(address, json={"profile": "social-9x16", "title": "漢字"}).status_code == 422
    (code,) = [labels[0] for name, *labels in counted.values if name == metrics.EXPORT_FAILURES.name]

    def broken(*_: object, **__: object) -> None:
        raise PreflightFailed("profile 'apple': bytes")

    monkeypatch.setattr("serve.api.exports.export_cover", broken)
    assert there.client.post(address, json={"profile": "apple"}).status_code >= 400
    assert counted.of(metrics.EXPORT_FAILURES, PreflightFailed.code) == [1]
    assert code != PreflightFailed.code


def test_the_threads_of_the_generator_carry_what_its_job_does() -> None:
    async def main() -> list[Any]:
        with ThreadPoolExecutor(1) as workers, carrying(Carried(job_id="j-1")):
            return [one async for one in run_with_progress(lambda _: current(), workers)]

    assert asyncio.run(main()) == [0.0, Carried(job_id="j-1")]
