"""Idempotency of batches: which batch a caller's key stands for."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from gatefold.errors import IdempotencyConflict
from serve.jobs.store import IDEMPOTENCY_KEPT_S
from serve.jobs.tables import batches


@dataclass(frozen=True)
class KnownBatch:
    """A batch that a key stands for, and the SHA-256 of its lines."""

    batch_id: str
    digest: str

    def check(self, digest: str) -> None:
        """Raises: IdempotencyConflict for other lines."""
        if digest != self.digest:
            raise IdempotencyConflict(
                f"this Idempotency-Key was used for other lines (batch '{self.batch_id}'); use a new key for a new "
                "batch"
            )


async def find(connection: AsyncConnection, now: float, caller: str, key: str) -> KnownBatch | None:
    """The last batch that this key stands for, of those that have arrived."""
    of_key = batches.c.caller == caller, batches.c.idempotency_key == key
    recent = batches.c.created_at >= now - IDEMPOTENCY_KEPT_S
    query = sa.select(batches.c.batch_id, batches.c.idempotency_digest).where(*of_key, recent)
    found = (await connection.execute(query.order_by(batches.c.number.desc()).limit(1))).one_or_none()
    return None if found is None else KnownBatch(*found)
