"""Batches of calls and their lines; a job may be of a line."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables `batches` and `batch_lines`, and the column that leads from a job to its batch."""
    op.add_column("jobs", sa.Column("batch_id", sa.String(64)))
    op.create_index("jobs_of_batch", "jobs", ["batch_id", "state"])
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "batches",
        sa.Column("number", key, primary_key=True, autoincrement=True),
        sa.Column("batch_id", sa.String(64), nullable=False, unique=True),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("lines", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("ends_at", sa.Double, nullable=False),
        sa.Column("finished_at", sa.Double),
        sa.Column("expires_at", sa.Double),
    )
    op.create_index("batches_by_state", "batches", ["state", "number"])
    op.create_table(
        "batch_lines",
        sa.Column("batch", key, sa.ForeignKey("batches.number", ondelete="CASCADE"), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.String(128), nullable=False),
        sa.Column("url", sa.String(64), nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("state", sa.String(16), nullable=False, server_default="waiting"),
        sa.Column("token", sa.Integer, nullable=False, server_default="0"),
        sa.Column("lease_until", sa.Double),
        sa.Column("job_id", sa.String(64)),
        sa.Column("status", sa.Integer),
        sa.Column("answer", sa.JSON),
    )
    op.create_index("batch_lines_waiting", "batch_lines", ["state", "url", "line", "batch"])
    op.create_index("batch_lines_of_job", "batch_lines", ["job_id"])
