import asyncio
import logging
from collections.abc import Sequence

import pytest
from standardwebhooks import Webhook

from gatefold.client.webhooks import verify
from serve.observability import metrics
from serve.webhooks.outbox import Delivery, Outbox
from tests.observed import Counted
from tests.receiver import NAMES, OTHER_SECRET, SECRET, Receiver, receiving
from tests.served import free_port
from tests.unit.serve.jobs.conftest import RESULT, Opened, run, soon
from tests.unit.serve.webhooks.conftest import cancelled, delivering, hooks, made, only

HOST = NAMES[0]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Of SQLite alone: what differs between databases, the tests of the outbox try."""
    return sqlite_url


async def attempted(outbox: Outbox, job_id: str, times: int = 1) -> Delivery:
    """The job's only delivery, after so many attempts."""

    async def done() -> bool:
        return len((await outbox.list_of(job_id))[0].attempts) >= times

    await soon(done)
    return (await outbox.list_of(job_id))[0]


def test_the_end_of_a_job_arrives_signed_as_the_standard_says(opened: Opened) -> None:
    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks(), (SECRET, OTHER_SECRET)) as outbox:
            job = await made(jobs, receiver.url())
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            delivery = await attempted(outbox, job.job_id)
        (came,) = receiver.received
        for secret in (SECRET, OTHER_SECRET):
            event = Webhook(secret).verify(came.body, came.headers)
            assert verify(secret, came.headers, came.body).data.job_id == job.job_id
        assert (event["type"], event["data"]["state"]) == ("job.succeeded", "succeeded")
        assert (came.path, came.headers["host"]) == ("/hook?token=hunter2", f"{HOST}:{receiver.port}")
        assert came.server_name == HOST
        assert came.headers["content-type"] == "application/json"
        assert came.headers["webhook-id"] == delivery.message_id
        assert (delivery.state, delivery.attempts[0].answer.status) == ("delivered", 204)

    with receiving() as receiver:
        run(main(receiver))


def test_a_receiver_that_was_down_gets_the_event_when_it_is_up_again(opened: Opened) -> None:
    receiver = Receiver(free_port(), answers=[503, 204], body=b"busy " * 1000)

    async def main() -> None:
        async with opened() as jobs, delivering(jobs, hooks(retry_longest_s=0.2)) as outbox:
            job = await cancelled(jobs, receiver.url())
            down = await attempted(outbox, job.job_id, 2)
            assert (down.state, down.attempts[0].answer.status) == ("pending", None)
            assert "ConnectError" in str(down.attempts[0].answer.error)
            with receiving(receiver):

                async def delivered() -> bool:
                    return (await only(outbox, job)).state == "delivered"

                await soon(delivered)
            *_, refused, accepted = (await only(outbox, job)).attempts
            assert (refused.answer.status, accepted.answer.status) == (503, 204)
            assert refused.answer.text == ("busy " * 1000)[:1024]
        assert len({came.headers["webhook-id"] for came in receiver.received}) == 1
        assert len({came.body for came in receiver.received}) == 1

    run(main())


def test_api10_unsafe_consumption_of_apis(opened: Opened) -> None:
    """OWASP's: a receiver's redirect is not followed, and of its body the beginning is kept as text."""

    async def main(receiver: Receiver, other: Receiver) -> None:
        receiver.answers, receiver.location = [307], other.url("slow.test")
        receiver.body = b"\x00\xff<script>" + b"x" * 1_000_000
        async with opened() as jobs, delivering(jobs, hooks()) as outbox:
            delivery = await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id)
        answer = delivery.attempts[0].answer
        assert (delivery.state, answer.status) == ("pending", 307)
        assert answer.text is not None
        assert len(answer.text) <= 1024
        assert "<script>xx" in answer.text
        assert "\x00" not in answer.text
        assert other.received == []

    with receiving() as receiver, receiving() as other:
        run(main(receiver, other))


def test_a_receiver_that_the_operator_does_not_allow_is_not_called_at_a_private_address(opened: Opened) -> None:
    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks()) as outbox:
            for host in ("private.test", "127.0.0.1"):
                delivery = await attempted(outbox, (await cancelled(jobs, receiver.url(host))).job_id)
                assert "not public" in str(delivery.attempts[0].answer.error)
        assert receiver.received == []

    with receiving() as receiver:
        run(main(receiver))


def test_a_name_is_looked_up_once_for_each_attempt_and_what_was_checked_is_called(opened: Opened) -> None:
    asked: list[str] = []

    async def changing(host: str, _: int) -> Sequence[str]:
        """First a private address, then that of this machine, which this name may have; then a private one again."""
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 2 else ["127.0.0.2"]

    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks(retry_longest_s=0.1), resolve=changing) as outbox:
            delivery = await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id, 2)
        assert [one.answer.status for one in delivery.attempts] == [None, 204]
        assert asked == [HOST, HOST]

    with receiving() as receiver:  # which listens on 127.0.0.1 alone
        run(main(receiver))


def test_a_name_that_changes_to_a_private_address_after_the_job_was_accepted_is_not_called(opened: Opened) -> None:
    async def rebound(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async def main(receiver: Receiver) -> None:
        settings = hooks(allowed_hosts=[])
        async with opened() as jobs, delivering(jobs, settings, resolve=rebound) as outbox:
            delivery = await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id)
        assert "not public" in str(delivery.attempts[0].answer.error)
        assert receiver.received == []

    with receiving() as receiver:
        run(main(receiver))


def test_a_certificate_of_another_name_or_authority_is_not_trusted(opened: Opened) -> None:
    async def here(_: str, __: int) -> Sequence[str]:
        return ["127.0.0.1"]

    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks(allowed_hosts=["other.test"]), resolve=here) as outbox:
            delivery = await attempted(outbox, (await cancelled(jobs, receiver.url("other.test"))).job_id)
        assert "CERTIFICATE_VERIFY_FAILED" in str(delivery.attempts[0].answer.error)
        assert receiver.received == []

    with receiving() as receiver:
        run(main(receiver))


def test_a_receiver_that_does_not_answer_holds_up_no_other(opened: Opened) -> None:
    async def main(slow: Receiver, quick: Receiver) -> None:
        settings = hooks(at_once=4, at_once_per_receiver=2, timeout_s=50.0)
        async with opened() as jobs, delivering(jobs, settings) as outbox:
            stuck = [await cancelled(jobs, slow.url("slow.test")) for _ in range(8)]
            for job in [await cancelled(jobs, quick.url()) for _ in range(8)]:
                assert (await attempted(outbox, job.job_id)).state == "delivered"
            assert [(await only(outbox, job)).attempts for job in stuck] == [()] * 8
        assert len(slow.received) == 2

    with receiving(Receiver(hold_s=60.0)) as slow, receiving() as quick:
        run(main(slow, quick))


def test_a_receiver_that_does_not_answer_is_not_waited_for(opened: Opened) -> None:
    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks(timeout_s=0.2, retry_first_s=60)) as outbox:
            delivery = await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id)
        assert delivery.attempts[0].answer.error == "no answer within 0.2 s"

    with receiving(Receiver(hold_s=60.0)) as receiver:
        run(main(receiver))


def test_attempts_are_counted_by_what_came_of_them_and_so_are_webhooks_given_up(
    opened: Opened, counted: Counted
) -> None:
    async def main(receiver: Receiver) -> None:
        receiver.answers = [500, 204, 410]
        async with opened() as jobs, delivering(jobs, hooks(timeout_s=0.5)) as outbox:
            assert len((await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id, 2)).attempts) == 2
            assert (await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id)).state == "failed"
            away = f"https://{HOST}:{free_port()}/x"
            assert (await attempted(outbox, (await cancelled(jobs, away)).job_id)).state == "pending"

    with receiving() as receiver:
        run(main(receiver))
    results = {one: len(counted.of(metrics.WEBHOOK_ATTEMPTS, one)) for one in ("accepted", "refused", "unanswered")}
    assert results["unanswered"] >= 1  # more where it is tried again before the test ends
    assert (results["accepted"], results["refused"]) == (1, 2)
    assert counted.of(metrics.WEBHOOKS_GIVEN_UP, "gone") == [1]


def test_what_is_under_way_at_a_close_is_due_at_once_for_the_next(opened: Opened) -> None:
    async def main(receiver: Receiver) -> None:
        async with opened() as jobs:
            async with delivering(jobs, hooks()) as outbox:
                job = await cancelled(jobs, receiver.url())

                async def came() -> bool:
                    return bool(receiver.received)

                await soon(came)
            receiver.hold_s = 0.0
            assert (await only(outbox, job)).attempts == ()
            async with delivering(jobs, hooks()) as outbox:
                assert (await attempted(outbox, job.job_id)).state == "delivered"
        assert len({one.headers["webhook-id"] for one in receiver.received}) == 1

    with receiving(Receiver(hold_s=2.0)) as receiver:
        run(main(receiver))


def test_nothing_of_a_url_but_host_and_port_is_logged(opened: Opened, caplog: pytest.LogCaptureFixture) -> None:
    async def main(receiver: Receiver) -> None:
        receiver.answers = [500]
        async with opened() as jobs, delivering(jobs, hooks(retry_first_s=60)) as outbox:
            for url in (receiver.url(), receiver.url("private.test"), f"https://{HOST}:{free_port()}/hunter2"):
                delivery = await attempted(outbox, (await cancelled(jobs, url)).job_id)
                shown = await jobs.store.list_of("me", state=None, limit=9, after=None)
                assert "hunter2" not in f"{delivery!r} {shown!r}"

    caplog.set_level(logging.INFO)
    with receiving() as receiver:
        run(main(receiver))
    assert f"was not accepted by {HOST}" in caplog.text
    assert "hunter2" not in caplog.text


def test_a_database_that_is_away_for_a_moment_costs_no_second_delivery(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gatefold.errors import DatabaseUnavailable

    record, failures = Outbox.record, iter([True, True])

    async def sometimes(self: Outbox, *given: object) -> object:
        if next(failures, False):
            raise DatabaseUnavailable("away")
        return await record(self, *given)  # type: ignore[arg-type]

    async def main(receiver: Receiver) -> None:
        async with opened() as jobs, delivering(jobs, hooks()) as outbox:
            assert (await attempted(outbox, (await cancelled(jobs, receiver.url())).job_id)).state == "delivered"
            await asyncio.sleep(0.1)
        assert len(receiver.received) == 1

    monkeypatch.setattr(Outbox, "record", sometimes)
    with receiving() as receiver:
        run(main(receiver))
