from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gatefold.errors import DatabaseUnavailable, Unauthorized
from serve.access import key_ring
from serve.access.callers import ANYONE, UNLIMITED, Allowance
from serve.access.key_ring import KeyRing
from serve.access.keys import KeyStore, digest_of
from serve.jobs.database import Database
from serve.middleware.keys import Keys
from tests.unit.serve.access.conftest import Opened, run

NONE = Keys(frozenset())
CONFIGURED = Keys(frozenset({digest_of("one")}))


class AbsentStore(KeyStore):
    """A database that answers once."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked = 0

    async def read_all(self) -> list[Any]:
        self.asked += 1
        if self.asked > 1:
            raise DatabaseUnavailable("away")
        return await super().read_all()


async def ring_of(database: Database, configured: Keys = NONE) -> KeyRing:
    ring = KeyRing(configured, KeyStore(database))
    await ring.refresh()
    return ring


def test_without_any_key_everybody_may_do_everything(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            ring = await ring_of(database)
            assert not ring.required
            assert ring.caller(None) is ring.caller("anything") is ANYONE

    run(main())


def test_a_key_of_the_database_names_its_caller_with_scopes_and_limits(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            made, secret = await KeyStore(database).create("Acme", ["search"], Allowance(60))
            ring = await ring_of(database)
            caller = ring.caller(secret)
            assert (caller.id, caller.name, set(caller.scopes), caller.allowed) == (
                made.key, made.key, {"search"}, Allowance(60)
            )  # fmt: skip
            assert caller.owner == made.key

    run(main())


def test_a_key_of_the_environment_has_all_scopes_and_no_limits(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            caller = (await ring_of(database, CONFIGURED)).caller("one")
            assert (caller.id, caller.allowed, caller.owner) == (digest_of("one"), UNLIMITED, None)
            assert caller.name == f"sha256:{digest_of('one')[:8]}"

    run(main())


def test_no_key_a_wrong_one_a_digest_and_a_name_alone_are_refused(opened: Opened) -> None:
    async def main() -> None:
        async with opened() as database:
            made, secret = await KeyStore(database).create("Acme", ["search"])
            ring = await ring_of(database, CONFIGURED)
            for shown in (None, "", "three", digest_of("one"), made.key, made.digest, f"{secret}x", secret[:-1]):
                with pytest.raises(Unauthorized, match="Authorization: Bearer KEY"):
                    ring.caller(shown)

    run(main())


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_key_that_has_ended_is_refused_and_leaves_the_endpoint_closed(opened: Opened, end: str) -> None:
    async def main() -> None:
        async with opened() as database:
            store = KeyStore(database)
            past = datetime.now(UTC) - timedelta(seconds=1) if end == "expired" else None
            made, secret = await store.create("Acme", ["search"], expires_at=past)
            if end == "revoked":
                await store.revoke(made.key)
            ring = await ring_of(database)
            with pytest.raises(Unauthorized, match=f"'{made.key}' is {end}"):
                ring.caller(secret)
            with pytest.raises(Unauthorized, match="needs an API key"):
                ring.caller(None)

    run(main())


def test_keys_are_accepted_for_a_while_without_the_database_and_then_no_more(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with opened() as database:
            _, secret = await KeyStore(database).create("Acme", ["search"])
            ring = KeyRing(CONFIGURED, AbsentStore(database))
            await ring.refresh()
            with pytest.raises(DatabaseUnavailable):
                await ring.refresh()
            ring.caller(secret)
            monkeypatch.setattr(key_ring, "OUTAGE_MAX_S", 0.0)
            with pytest.raises(DatabaseUnavailable, match=r"the database of keys has not answered for \d+ s"):
                ring.caller(secret)
            ring.caller("one")  # which needs no database

    run(main())
