"""Idempotency of batches: the key that a batch was sent with, and a digest of its lines."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns, and an index to find a caller's key."""
    op.add_column("batches", sa.Column("idempotency_key", sa.String(255)))
    op.add_column("batches", sa.Column("idempotency_digest", sa.String(64)))
    op.create_index("batches_idempotency", "batches", ["caller", "idempotency_key"])
