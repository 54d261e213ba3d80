"""What is carried: within tasks and threads, as JSON with a job, over a deployment's methods, into log records."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from ray._common.formatters import JSONFormatter

from serve.observability import carried
from serve.observability.carried import NOTHING, Carried, as_argument, bound, carried_of, carrying, current
from serve.observability.logs import CarriedFields, add_carried_fields
from serve.observability.observed import observed
from tests.observed import Traced

KNOWN = Carried(request_id="r-1", job_id="j-1", key_prefix="0123abcd", traceparent=f"00-{1:032x}-{2:016x}-01")


@observed
class Deployment:
    """Says what it carries."""

    async def says(self) -> Carried:
        return current()

    async def streams(self, count: int) -> AsyncGenerator[Carried, None]:
        for _ in range(count):
            yield current()

    async def fails(self) -> None:
        raise RuntimeError

    def plain(self) -> Carried:
        return current()


@pytest.fixture
def record_factory() -> Iterator[None]:
    before = logging.getLogRecordFactory()
    yield
    logging.setLogRecordFactory(before)


def test_nothing_is_carried_outside_and_no_argument_is_made_of_it() -> None:
    assert current() == NOTHING
    assert as_argument() == {}
    with carrying(KNOWN):
        assert as_argument() == {"carried": KNOWN}
    assert current() == NOTHING


def test_what_was_written_down_is_read_again_and_an_unknown_field_left_out() -> None:
    assert carried_of(json.loads(json.dumps(KNOWN.record()))) == KNOWN
    assert NOTHING.record() == {}
    assert carried_of({"request_id": "r", "of_a_later_version": "x"}) == Carried(request_id="r")


def test_tasks_inherit_it_and_threads_that_are_bound() -> None:
    async def main() -> tuple[Carried, Carried, Carried]:
        with carrying(KNOWN):
            carried.add(job_id="j-2")
            with ThreadPoolExecutor(1) as threads:
                there, without = threads.submit(bound(current)).result(), threads.submit(current).result()
            return await asyncio.create_task(Deployment().says()), there, without

    task, thread, without = asyncio.run(main())
    assert task == thread == Carried("r-1", "j-2", KNOWN.key_prefix, KNOWN.traceparent)
    assert without == NOTHING


def test_an_observed_deployment_works_under_what_its_caller_carries(traced: Traced) -> None:
    async def main() -> None:
        deployed = Deployment()
        there: Carried = await deployed.says(carried=KNOWN)  # type: ignore[call-arg]
        assert (there.request_id, there.job_id) == ("r-1", "j-1")
        streamed = [one async for one in deployed.streams(3, carried=KNOWN)]  # type: ignore[call-arg]
        assert {one.job_id for one in streamed} == {"j-1"}
        with pytest.raises(RuntimeError):
            await deployed.fails(carried=KNOWN)  # type: ignore[call-arg]
        assert current() == NOTHING

    asyncio.run(main())
    says, streams, fails = (traced.named(f"Deployment.{name}") for name in ("says", "streams", "fails"))
    assert {one.parent for one in (says, streams, fails)} == {f"{2:016x}"}
    assert says.attributes == {"gatefold.request_id": "r-1", "gatefold.job_id": "j-1"}
    assert [one.failure for one in (says, streams, fails)] == [None, None, "RuntimeError"]


def test_an_observed_deployment_is_as_it_was_for_a_caller_that_carries_nothing(traced: Traced) -> None:
    async def main() -> None:
        deployed = Deployment()
        assert await deployed.says() == deployed.plain() == NOTHING
        assert [one async for one in deployed.streams(2)] == [NOTHING] * 2

    asyncio.run(main())
    assert traced.spans == []


def test_an_observed_stream_that_is_left_early_ends_its_own(traced: Traced) -> None:
    closed: list[bool] = []

    @observed
    class Endless:
        async def streams(self) -> AsyncGenerator[int, None]:
            try:
                while True:
                    yield 1
            finally:
                closed.append(True)

    async def main() -> None:
        stream = Endless().streams(carried=KNOWN)  # type: ignore[call-arg]
        assert await anext(stream) == 1
        await stream.aclose()

    asyncio.run(main())
    assert closed == [True]
    assert traced.named("Endless.streams").ended


@pytest.mark.usefixtures("record_factory")
def test_log_records_have_job_and_key_and_ray_writes_them_as_json(caplog: pytest.LogCaptureFixture) -> None:
    add_carried_fields()
    add_carried_fields()
    factory = logging.getLogRecordFactory()
    assert isinstance(factory, CarriedFields)
    assert not isinstance(factory._make, CarriedFields)
    with carrying(KNOWN):
        logging.getLogger("gatefold.test").warning("a song was lost")
    logging.getLogger("gatefold.test").warning("of no job")
    first, second = (json.loads(JSONFormatter().format(record)) for record in caplog.records)
    assert (first["message"], first["covers_job_id"], first["key_prefix"]) == ("a song was lost", "j-1", "0123abcd")
    assert {"covers_job_id", "key_prefix"}.isdisjoint(second)


@pytest.mark.usefixtures("record_factory")
def test_no_field_of_ours_has_a_name_that_ray_adds_to_its_own_records() -> None:
    add_carried_fields()
    extra = {"request_id": "r", "route": "/", "job_id": "01000000", "application": "a", "serve_access_log": True}
    with carrying(KNOWN):
        logging.getLogger("gatefold.test").warning("POST / 200", extra=extra)  # raises for a name in use
