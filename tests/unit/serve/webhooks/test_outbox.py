import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from gatefold.errors import GatefoldError, LeaseLost, NotFound
from serve.access.keys import KeyStore
from serve.jobs.database import Database
from serve.jobs.jobs import Webhook
from serve.jobs.store import new_job_id
from serve.jobs.tables import deliveries, delivery_attempts
from serve.webhooks.outbox import GONE, Answer, ClaimedDelivery, Outbox
from tests.unit.serve.jobs.conftest import RESULT, SPEC, Jobs, Opened, run
from tests.unit.serve.webhooks.conftest import cancelled, hooks, made, only

URL = "https://hooks.test/hook?token=hunter2"
ROOT = Path(__file__).parents[4]
KILLED = """
import asyncio, os, signal, sys
from tests.unit.serve.jobs.conftest import RESULT, Jobs
from tests.unit.serve.webhooks.conftest import made
from gatefold.config import ServeSettings
from serve.jobs.database import Database
from serve.jobs.queue import JobQueue
from serve.jobs.store import JobStore

async def main():
    database = Database(sys.argv[1])
    await database.upgrade()
    jobs = Jobs(JobStore(database, ServeSettings()), JobQueue(database, ServeSettings()), database)
    job = await made(jobs, "https://hooks.test/hook")
    print(job.job_id, flush=True)
    await jobs.queue.succeed(await jobs.begin(), RESULT)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


async def claimed(outbox: Outbox) -> ClaimedDelivery:
    (claim,) = await outbox.claim(10, {})
    return claim


def test_every_end_of_a_job_is_written_down_to_be_delivered(opened: Opened) -> None:
    async def main() -> None:
        async with opened(job_attempts_max=1, job_lease_s=0.1) as jobs:
            outbox, found = Outbox(jobs.database, hooks()), {}
            made_jobs = [await made(jobs, URL) for _ in range(4)]
            await jobs.queue.succeed(await jobs.begin(), RESULT)
            await jobs.queue.fail(await jobs.begin(), GatefoldError("broken"))
            await jobs.begin()  # whose runner is lost
            await jobs.store.cancel(made_jobs[3].job_id)
            await asyncio.sleep(0.2)
            await jobs.queue.claim("another", 1)
            for job in made_jobs:
                found[job.job_id] = await only(outbox, job)
            events = [found[job.job_id].event for job in made_jobs]
            assert events == ["job.succeeded", "job.failed", "job.failed", "job.cancelled"]
            bodies = {claim.message_id: json.loads(claim.body) for claim in await outbox.claim(10, {})}
            first = bodies[found[made_jobs[0].job_id].message_id]
            assert (first["type"], first["data"]["state"]) == ("job.succeeded", "succeeded")
            assert [image["seed"] for image in first["data"]["images"]] == [7]
            assert first["timestamp"] == first["data"]["finished_at"]

    run(main())


def test_only_the_events_that_are_wanted_are_written_down(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks())
            job = await made(jobs, URL, ("job.succeeded", "job.failed"))
            await jobs.store.cancel(job.job_id)
            other = await jobs.make()
            await jobs.store.cancel(other.job_id)
            assert await outbox.list_of(job.job_id) == await outbox.list_of(other.job_id) == []

    run(main())


def test_a_job_without_a_webhook_reports_to_that_of_its_key_as_it_was_when_the_job_was_accepted(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox, known = Outbox(jobs.database, hooks()), KeyStore(jobs.database)
            own = Webhook("https://key.test/", ("job.cancelled",))
            key, _ = await known.create("Acme", ["generate"], webhook=own)
            other, _ = await known.create("Other", ["generate"])
            accepted = [
                (await jobs.store.create(new_job_id(), SPEC, caller=caller, webhook=webhook))[0].job_id
                for caller, webhook in ((key.key, None), (key.key, Webhook(URL)), (other.key, None))
            ]
            await known.set_webhook(key.key, None)
            for job_id in accepted:
                await jobs.store.cancel(job_id)
            found = [[one.receiver for one in await outbox.list_of(job_id)] for job_id in accepted]
            assert found == [["key.test:443"], ["hooks.test:443"], []]

    run(main())


def test_a_job_ends_once_and_so_does_its_event(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            job = await made(jobs, URL)
            claim = await jobs.begin()
            await jobs.queue.succeed(claim, RESULT)
            await jobs.store.cancel(job.job_id)
            with pytest.raises(LeaseLost):
                await jobs.queue.succeed(claim, RESULT)
            assert (await only(Outbox(jobs.database, hooks()), job)).event == "job.succeeded"

    run(main())


def test_a_process_that_is_killed_right_after_the_end_of_a_job_loses_no_event(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/jobs.sqlite"
    killed = subprocess.run([sys.executable, "-c", KILLED, url], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert killed.returncode == -9, killed.stderr

    async def main() -> None:
        database = Database(url)
        claim = await claimed(Outbox(database, hooks()))
        await database.close()
        assert claim.message_id == f"msg_{killed.stdout.strip()}_1"

    run(main())


def test_an_attempt_whose_process_is_lost_is_made_again_under_the_same_id(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks())
            await cancelled(jobs, URL)
            lost = await claimed(outbox)
            assert await outbox.claim(10, {}) == []
            async with jobs.database.write() as connection:
                await connection.execute(sa.update(deliveries).values(lease_until=0.0))  # its time is over
            again = await claimed(outbox)
            assert (again.message_id, again.body) == (lost.message_id, lost.body)
            await outbox.record(lost, Answer(0.1, 500))  # too late: it counts for nothing
            await outbox.record(again, Answer(0.1, 204))
            assert await outbox.claim(10, {}) == []

    run(main())


def test_processes_that_claim_at_once_share_the_deliveries_between_them(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            for number in range(9):
                await cancelled(here, f"https://host{number % 3}.test/")
            boxes = [Outbox(one.database, hooks(at_once_per_receiver=2)) for one in (here, there)]
            claims: list[str] = []
            while len(claims) < 9:
                found = await asyncio.gather(*(box.claim(2, {}) for box in boxes * 2))
                claims += [claim.message_id for some in found for claim in some]
            assert len(set(claims)) == 9

    run(main())


def test_a_receiver_gets_no_more_than_its_share_and_each_gets_its_first_before_any_its_second(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks(at_once_per_receiver=3))
            for host in ("a.test", "a.test", "a.test", "a.test", "b.test", "b.test", "c.test"):
                await cancelled(jobs, f"https://{host}/")
            first = [claim.receiver for claim in await outbox.claim(3, {"c.test:443": 1})]
            assert sorted(first) == ["a.test:443", "b.test:443", "c.test:443"]
            under_way = {"a.test:443": 2, "b.test:443": 3}
            assert [claim.receiver for claim in await outbox.claim(10, under_way)] == ["a.test:443"]

    run(main())


def test_pauses_grow_and_the_last_attempt_is_made_when_the_time_is_over(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            settings = hooks(retry_first_s=100, retry_longest_s=1000, retry_for_s=3000)
            outbox, pauses = Outbox(jobs.database, settings), list[float]()
            job = await cancelled(jobs, URL)
            for _ in range(20):
                await outbox.record(await claimed(outbox), Answer(0.1, error="down"))
                delivery = await only(outbox, job)
                if delivery.next_at is None:
                    break
                pauses.append(delivery.next_at - await _now(jobs))
                await _pass(jobs, pauses[-1] + 0.01)
            assert delivery.state == "failed"
            assert [attempt.number for attempt in delivery.attempts] == list(range(1, len(pauses) + 2))
            assert [round(pause / 100) for pause in pauses[:2]] == [1, 4]
            assert all(pause < 1101 for pause in pauses)
            assert abs(sum(pauses) - 3000) < 10

    run(main())


def test_a_receiver_that_wants_nothing_any_more_is_not_asked_again(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks())
            job = await cancelled(jobs, URL)
            await outbox.record(await claimed(outbox), Answer(0.1, GONE, "gone"))
            delivery = await only(outbox, job)
            assert (delivery.state, delivery.next_at) == ("failed", None)
            again = await outbox.redeliver(job.job_id, 1)
            assert (again.state, again.message_id) == ("pending", delivery.message_id)
            await outbox.record(await claimed(outbox), Answer(0.1, 200, "ok"))
            assert [one.answer.status for one in (await only(outbox, job)).attempts] == [GONE, 200]
            with pytest.raises(NotFound, match="no delivery 2"):
                await outbox.redeliver(job.job_id, 2)

    run(main())


@pytest.mark.parametrize("answer", [Answer(0.1, 200), Answer(0.1, GONE), Answer(0.1, 500)])
def test_a_delivery_that_is_asked_for_while_one_is_under_way_is_made_again(opened: Opened, answer: Answer) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks())
            job = await cancelled(jobs, URL)
            first = await claimed(outbox)
            await outbox.redeliver(job.job_id, 1)
            await outbox.record(first, answer)
            again = await claimed(outbox)
            assert again.message_id == first.message_id
            await outbox.record(again, Answer(0.1, 200))
            assert (await only(outbox, job)).state == "delivered"

    run(main())


def test_a_claim_that_is_handed_back_is_due_at_once_and_was_no_attempt(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as jobs:
            outbox = Outbox(jobs.database, hooks())
            job = await cancelled(jobs, URL)
            await outbox.hand_back(await claimed(outbox))
            assert (await claimed(outbox)).tries == 0
            assert (await only(outbox, job)).attempts == ()

    run(main())


def test_deliveries_go_with_their_job_but_for_those_that_are_due_which_go_when_they_are_done(opened: Opened) -> None:
    async def main() -> None:
        async with opened(results_kept_s=0.01) as jobs:
            outbox = Outbox(jobs.database, hooks())
            done, due = await cancelled(jobs, "https://a.test/"), await cancelled(jobs, "https://b.test/")
            claims = {claim.receiver: claim for claim in await outbox.claim(10, {})}
            await outbox.record(claims["a.test:443"], Answer(0.1, 200))
            await jobs.queue.forget([done.job_id, due.job_id])
            assert await _count(jobs) == (1, 0)
            await outbox.record(claims["b.test:443"], Answer(0.1, 200))
            assert await _count(jobs) == (0, 0)

    run(main())


async def _now(jobs: Jobs) -> float:
    async with jobs.database.read() as connection:
        return await jobs.database.now(connection)


async def _pass(jobs: Jobs, seconds: float) -> None:
    """As if so much time had passed."""
    async with jobs.database.write() as connection:
        earlier = {name: deliveries.c[name] - seconds for name in ("next_at", "since")}
        await connection.execute(sa.update(deliveries).values(earlier))


async def _count(jobs: Jobs) -> tuple[int, int]:
    async with jobs.database.read() as connection:
        tables = [sa.select(sa.func.count()).select_from(table) for table in (deliveries, delivery_attempts)]
        first, second = [int(await connection.scalar(query) or 0) for query in tables]
        return first, second
