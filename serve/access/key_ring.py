"""The keys that are accepted: those that `gatefold serve` was given, and those of the database as they were last read,
at most `serve.poll_interval_s` ago. A request waits for no query. Knows no routes."""

import asyncio
import logging
import time
from datetime import UTC, datetime

from gatefold.errors import DatabaseUnavailable, GatefoldError, Unauthorized
from serve.access.callers import ANYONE, SCOPES, Caller
from serve.access.keys import ApiKey, KeyStore, digest_of
from serve.middleware.keys import Keys

logger = logging.getLogger(__name__)

OUTAGE_MAX_S = 300.0
"""seconds for which keys of the database are accepted while it does not answer; one may have been revoked since"""
_NAME_LENGTH = len("gf_") + 8


class KeyRing:
    """The keys of one endpoint.

    Args:
        configured: keys that the environment of `gatefold serve` named: of all scopes, without limits.
        store: keys of the database.
    """

    def __init__(self, configured: Keys, store: KeyStore) -> None:
        self._configured, self._store = configured, store
        self._known: dict[str, ApiKey] = {}
        self._read_at = time.monotonic()

    @property
    def required(self) -> bool:
        """Whether callers must show a key: where there has ever been one, even when all of them are revoked."""
        return self._configured.required or bool(self._known)

    async def refresh(self) -> None:
        """Reads the keys of the database. Raises: DatabaseUnavailable."""
        known = await self._store.read_all()
        self._known, self._read_at = {one.key: one for one in known}, time.monotonic()

    async def keep_refreshing(self, every_s: float) -> None:
        """Never ends; where the database does not answer, what is known goes on to hold for `OUTAGE_MAX_S`."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.refresh()
            except GatefoldError as error:
                logger.warning("changes of keys cannot be read; those known so far hold: %s", error)
            except Exception:
                logger.exception("changes of keys cannot be read; those known so far hold")

    def caller(self, secret: str | None) -> Caller:
        """Who shows this secret; anyone where no key is required.

        Raises: Unauthorized; DatabaseUnavailable where the keys of the database have not been read for too long.
        """
        if not self.required:
            return ANYONE
        if not secret:
            raise Unauthorized("this endpoint needs an API key; send it as 'Authorization: Bearer KEY'")
        digest, now = digest_of(secret), datetime.now(UTC)
        if self._configured.has(digest):
            return Caller(digest, frozenset(SCOPES))
        known = self._known.get(secret[:_NAME_LENGTH])
        if known is None or not known.opened_by(digest, now):
            raise Unauthorized("this API key ('Authorization: Bearer KEY') is not known here; ask the operator for one")
        if (state := known.state(now)) != "active":
            raise Unauthorized(f"API key '{known.key}' is {state}; ask the operator for another")
        if (away_s := time.monotonic() - self._read_at) > OUTAGE_MAX_S:
            raise DatabaseUnavailable(
                f"the database of keys has not answered for {away_s:.0f} s, and keys are accepted without it for "
                f"{OUTAGE_MAX_S:.0f} s; try again later"
            )
        return known.caller
