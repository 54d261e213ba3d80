"""Webhooks of keys: where the ends of a key's jobs are reported that name no webhook of their own."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("keys", sa.Column("webhook_url", sa.Text))
    op.add_column("keys", sa.Column("webhook_events", sa.JSON))
