"""When a job that has not ended is to be cancelled; and the order in which jobs finished, for estimates."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column `cancel_at`, and indexes on it and on `finished_at`."""
    op.add_column("jobs", sa.Column("cancel_at", sa.Double))
    op.create_index("jobs_overdue", "jobs", ["cancel_at"])
    op.create_index("jobs_finished", "jobs", ["finished_at"])
