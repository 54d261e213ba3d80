"""Turns of batches, so that they share what runs their lines; waiting lines are found by their batch."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns, and puts the batch first in the index of waiting lines."""
    for name in ("cover_turn", "search_turn"):
        op.add_column("batches", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.drop_index("batch_lines_waiting", "batch_lines")
    op.create_index("batch_lines_waiting", "batch_lines", ["batch", "state", "url", "line"])
