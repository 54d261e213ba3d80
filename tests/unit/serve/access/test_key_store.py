import asyncio
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from gatefold.errors import InvalidSettings, UnknownKey
from serve.access.audit import AuditLog
from serve.access.callers import UNLIMITED, Allowance
from serve.access.keys import KeyStore, digest_of
from serve.jobs.jobs import Webhook
from serve.jobs.tables import keys
from tests.unit.serve.access.conftest import Opened, run


def test_a_key_is_read_as_it_was_made_and_its_secret_is_kept_nowhere(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database, "me@here")
            expires = datetime(2099, 1, 31, tzinfo=UTC)
            made, secret = await store.create("Acme", ["search", "generate"], Allowance(60, 2, 1000), expires)
            assert re.fullmatch(r"gf_[0-9a-f]{8}_[\w-]{43}", secret)
            assert secret.startswith(f"{made.key}_")
            assert await store.read_all() == [made]
            assert (made.name, made.allowed) == ("Acme", Allowance(60, 2, 1000))
            assert set(made.scopes) == {"search", "generate"}
            assert (made.expires_at, made.revoked_at) == (expires, None)
            assert abs(made.created_at - datetime.now(UTC)) < timedelta(minutes=1)
            async with database.read() as connection:
                row = (await connection.execute(sa.select(keys))).one()
            assert secret not in str(row)
            assert row.digest == digest_of(secret)
            assert row.digest not in repr(made)

    run(main())


@pytest.mark.parametrize(
    ("name", "scopes", "allowed", "said"),
    [
        ("", ["search"], UNLIMITED, "name of a key = '': 1 to 200 printable characters"),
        ("a\nb", ["search"], UNLIMITED, r"name of a key = 'a\\nb'"),
        ("a", [], UNLIMITED, "at least one scope; there are search, generate, admin"),
        ("a", ["search", "root"], UNLIMITED, "scope 'root' is not known"),
        ("a", ["search"], Allowance(requests_per_minute=0), "requests_per_minute = 0: must be 1 to"),
        ("a", ["search"], Allowance(covers_per_month=2**31), "covers_per_month = 2147483648: must be 1 to"),
    ],
)
def test_what_no_key_can_have_is_refused(
    opened: Opened, name: str, scopes: list[str], allowed: Allowance, said: str
) -> None:
    async def main() -> None:
        async with opened() as database:
            with pytest.raises(InvalidSettings, match=said):
                await KeyStore(database).create(name, scopes, allowed)
            assert await KeyStore(database).read_all() == []

    run(main())


def test_the_first_key_is_made_once_however_many_processes_ask_at_a_time(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as here, opened() as there:
            made = await asyncio.gather(*(KeyStore(one).create_first("first") for one in (here, there) * 3))
            (first,) = [one for one in made if one is not None]
            assert first[0].scopes == {"search", "generate", "admin"}
            assert await KeyStore(here).read_all() == [first[0]]

    run(main())


def test_a_revoked_key_is_no_reason_for_another_first_one(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            made, _ = await store.create("Acme", ["search"])
            await store.revoke(made.key)
            assert await store.create_first("first") is None

    run(main())


def test_a_rotated_key_has_another_secret_and_all_else_as_before(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            made, old = await store.create("Acme", ["search"], Allowance(60))
            changed, new = await store.rotate(made.key)
            now = datetime.now(UTC)
            assert (changed.key, changed.name, changed.allowed) == (made.key, made.name, made.allowed)
            assert [changed.opened_by(digest_of(secret), now) for secret in (old, new)] == [False, True]

    run(main())


def test_the_old_secret_of_a_rotated_key_is_accepted_for_as_long_as_that_was_asked_for(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            made, old = await store.create("Acme", ["search"])
            changed, new = await store.rotate(made.key, keep_s=3600)
            now = datetime.now(UTC)
            times = [now, now + timedelta(minutes=59), now + timedelta(minutes=61)]
            assert [changed.opened_by(digest_of(old), at) for at in times] == [True, True, False]
            assert [changed.opened_by(digest_of(new), at) for at in times] == [True] * 3
            again, _ = await store.rotate(made.key)
            assert not again.opened_by(digest_of(new), now)
            assert not again.opened_by("", now)

    run(main())


def test_a_key_has_the_webhook_that_it_was_given_last(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            first, second = Webhook("https://hooks.test/1"), Webhook("https://hooks.test/2", ("job.failed",))
            made, _ = await store.create("Acme", ["generate"], webhook=first)
            assert made.webhook == first
            assert await store.set_webhook(made.key, second) == replace(made, webhook=second)
            assert await store.set_webhook(made.key, None) == replace(made, webhook=None)
            with pytest.raises(UnknownKey):
                await store.set_webhook("gf_00000000", first)

    run(main())


def test_a_revoked_key_stays_revoked(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            made, _ = await store.create("Acme", ["search"])
            revoked = await store.revoke(made.key)
            assert (revoked.state(datetime.now(UTC)), made.state(datetime.now(UTC))) == ("revoked", "active")
            assert await store.revoke(made.key) == revoked
            with pytest.raises(InvalidSettings, match=f"'{made.key}' is revoked"):
                await store.rotate(made.key)

    run(main())


def test_a_key_that_is_not_there_is_named(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            for change in (KeyStore(database).revoke, KeyStore(database).rotate):
                with pytest.raises(UnknownKey, match="'gf_00000000' is not known; `gatefold keys list`"):
                    await change("gf_00000000")

    run(main())


def test_changes_of_keys_are_in_the_audit(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database, "me@here")
            made, _ = await store.create("Acme", ["search"])
            await store.rotate(made.key)
            await store.revoke(made.key)
            entries = await AuditLog(database).read(10)
            assert [(one.caller, one.action, one.target, one.result) for one in entries] == [
                ("me@here", f"{change} key", made.key, "done") for change in ("revoke", "rotate", "create")
            ]

    run(main())
