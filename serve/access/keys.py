"""API keys in the database of jobs: created, listed, rotated, revoked, given a webhook. A secret is known to who
receives it alone; here is its SHA-256. It begins with the name of its key, by which it is found in logs."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.errors import InvalidSettings, UnknownKey
from serve.access.audit import add_entry
from serve.access.callers import Allowance, Caller, Scope
from serve.jobs.database import Database, uninterrupted
from serve.jobs.jobs import Webhook
from serve.jobs.records import webhook_columns, webhook_of
from serve.jobs.tables import keys

MARK = "gf_"
"""how every key of the database begins"""
_NAME_BYTES, _SECRET_BYTES = 4, 32
_NAME_MAX = 200


@dataclass(frozen=True)
class ApiKey:
    """A key without its secret."""

    key: str
    """how its secret begins; jobs, usage and audit name it so"""
    name: str
    scopes: frozenset[Scope]
    allowed: Allowance
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    digest: str = field(repr=False)
    """SHA-256 of its secret, in hexadecimal"""
    previous_digest: str | None = field(repr=False)
    previous_until: datetime | None
    """until which the secret before the last rotation is still accepted"""
    webhook: Webhook | None = None
    """to which the ends of its jobs are reported that name none themselves"""

    def opened_by(self, digest: str, now: datetime) -> bool:
        """Whether this is the digest of its secret, or of the one before while that is accepted; in constant time."""
        is_present = hmac.compare_digest(digest, self.digest)
        is_previous = hmac.compare_digest(digest, self.previous_digest or "")
        return is_present or (is_previous and self.previous_until is not None and now < self.previous_until)

    @property
    def caller(self) -> Caller:
        """Who uses it."""
        return Caller(self.key, self.scopes, self.allowed)

    def state(self, now: datetime) -> str:
        """In a word: active, expired or revoked."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class KeyStore:
    """The keys of one database, with its schema up to date. Every change is written into the audit with it.

    Args:
        by: who makes the changes, as the audit is to name it.
    """

    def __init__(self, database: Database, by: str = "gatefold") -> None:
        self._database, self._by = database, by

    @uninterrupted
    async def read_all(self) -> list[ApiKey]:
        """All keys, also revoked and expired ones, the oldest first."""
        async with self._database.read() as connection:
            rows = await connection.execute(sa.select(keys).order_by(keys.c.created_at, keys.c.key))
            return [_key_of(row) for row in rows]

    @uninterrupted
    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        allowed: Allowance = Allowance(),  # noqa: B008 (it is frozen)
        expires_at: datetime | None = None,
        webhook: Webhook | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret, which is known nowhere else. Raises: InvalidSettings for what no key can have."""
        _check(name, scopes, allowed)
        async with self._database.write() as connection:
            await self._database.lock(connection)
            return await self._insert(connection, name, scopes, allowed, expires_at, webhook)

    @uninterrupted
    async def create_first(self, name: str) -> tuple[ApiKey, str] | None:
        """A key with all scopes and its secret, where there has never been a key; None where there has."""
        async with self._database.write() as connection:
            await self._database.lock(connection)
            if await connection.scalar(sa.select(keys.c.key).limit(1)):
                return None
            return await self._insert(connection, name, get_args(Scope), Allowance(), None, None)

    @uninterrupted
    async def rotate(self, key: str, keep_s: float = 0.0) -> tuple[ApiKey, str]:
        """The key and its new secret; all else of it stays, its jobs and its usage too.

        Args:
            keep_s: seconds for which the secret before is accepted as well.

        Raises: UnknownKey; InvalidSettings for a revoked one.
        """
        async with self._database.write() as connection:
            await self._database.lock(connection)
            found = await _get(connection, key)
            if found.revoked_at is not None:
                raise InvalidSettings(f"key '{key}' is revoked, and cannot be rotated; create another")
            now = await self._database.now(connection)
            secret = _new_secret(key)
            values: dict[str, Any] = {"digest": digest_of(secret), "previous_digest": None, "previous_until": None}
            if keep_s > 0:
                values |= {"previous_digest": found.digest, "previous_until": now + keep_s}
            await connection.execute(sa.update(keys).where(keys.c.key == key).values(values))
            await add_entry(connection, now, self._by, "rotate key", key, "done")
            return await _get(connection, key), secret

    @uninterrupted
    async def revoke(self, key: str) -> ApiKey:
        """The key, accepted no more; one that was revoked stays as it is. Raises: UnknownKey."""
        async with self._database.write() as connection:
            await self._database.lock(connection)
            await _get(connection, key)
            now = await self._database.now(connection)
            revoked = sa.update(keys).where(keys.c.key == key, keys.c.revoked_at.is_(None)).values(revoked_at=now)
            await connection.execute(revoked)
            await add_entry(connection, now, self._by, "revoke key", key, "done")
            return await _get(connection, key)

    @uninterrupted
    async def set_webhook(self, key: str, webhook: Webhook | None) -> ApiKey:
        """The key with this webhook, or without one: for jobs accepted from now on. Raises: UnknownKey."""
        async with self._database.write() as connection:
            await self._database.lock(connection)
            await _get(connection, key)
            await connection.execute(sa.update(keys).where(keys.c.key == key).values(webhook_columns(webhook)))
            now = await self._database.now(connection)
            action = "remove webhook of key" if webhook is None else "set webhook of key"
            await add_entry(connection, now, self._by, action, key, "done")
            return await _get(connection, key)

    async def _insert(
        self, connection: AsyncConnection, name: str, scopes: Sequence[str], allowed: Allowance,
        expires_at: datetime | None, webhook: Webhook | None,
    ) -> tuple[ApiKey, str]:  # fmt: skip
        now = await self._database.now(connection)
        while await connection.scalar(sa.select(keys.c.key).where(keys.c.key == (key := _new_name()))):
            pass  # one of four thousand million, and taken
        secret = _new_secret(key)
        row = {
            "key": key,
            "name": name,
            "digest": digest_of(secret),
            "scopes": " ".join(sorted(set(scopes))),
            "requests_per_minute": allowed.requests_per_minute,
            "jobs_at_once": allowed.jobs_at_once,
            "covers_per_month": allowed.covers_per_month,
            "created_at": now,
            "expires_at": None if expires_at is None else expires_at.timestamp(),
            **webhook_columns(webhook),
        }
        await connection.execute(sa.insert(keys).values(row))
        await add_entry(connection, now, self._by, "create key", key, "done")
        return await _get(connection, key), secret


def digest_of(secret: str) -> str:
    """SHA-256 of a secret, in hexadecimal."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _new_name() -> str:
    return f"{MARK}{secrets.token_hex(_NAME_BYTES)}"


def _new_secret(key: str) -> str:
    return f"{key}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def _check(name: str, scopes: Sequence[str], allowed: Allowance) -> None:
    if not (1 <= len(name) <= _NAME_MAX and name.isprintable()):
        raise InvalidSettings(f"name of a key = {name[:80]!r}: 1 to {_NAME_MAX} printable characters")
    known = get_args(Scope)
    if unknown := [scope for scope in scopes if scope not in known]:
        raise InvalidSettings(f"scope '{unknown[0][:80]}' is not known; there are {', '.join(known)}")
    if not scopes:
        raise InvalidSettings(f"a key needs at least one scope; there are {', '.join(known)}")
    for field_name, value in vars(allowed).items():
        if value is not None and not 1 <= value < 2**31:
            raise InvalidSettings(f"{field_name} = {value}: must be 1 to {2**31 - 1:,}")


async def _get(connection: AsyncConnection, key: str) -> ApiKey:
    row = (await connection.execute(sa.select(keys).where(keys.c.key == key))).one_or_none()
    if row is None:
        raise UnknownKey(f"key '{key[:80]}' is not known; `gatefold keys list` shows all, as in {MARK}ab12cd34")
    return _key_of(row)


def _key_of(row: Any) -> ApiKey:
    return ApiKey(
        key=row.key,
        name=row.name,
        scopes=frozenset(row.scopes.split()),
        allowed=Allowance(row.requests_per_minute, row.jobs_at_once, row.covers_per_month),
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        expires_at=_time_of(row.expires_at),
        revoked_at=_time_of(row.revoked_at),
        digest=row.digest,
        previous_digest=row.previous_digest,
        previous_until=_time_of(row.previous_until),
        webhook=webhook_of(row),
    )


def _time_of(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)
