"""Tables of jobs, their events and their images."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables `jobs`, `events` and `images`."""
    _create_jobs()
    _create_events_and_images()


def _create_jobs() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "jobs",
        sa.Column("number", key, primary_key=True, autoincrement=True),
        sa.Column("job_id", sa.String(64), nullable=False, unique=True),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("key_prefix", sa.String(32)),
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("idempotency_digest", sa.String(64)),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Float, nullable=False, server_default="0"),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("finished_at", sa.Double),
        sa.Column("expires_at", sa.Double),
        sa.Column("spec", sa.JSON, nullable=False),
        sa.Column("result", sa.JSON),
        sa.Column("error", sa.JSON),
        sa.Column("last_event", sa.Integer, nullable=False, server_default="1"),
        sa.Column("token", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("runner", sa.String(64)),
        sa.Column("lease_until", sa.Double),
        sa.UniqueConstraint("caller", "idempotency_key", name="jobs_idempotency"),
    )
    op.create_index("jobs_queue", "jobs", ["state", "priority", "number"])
    op.create_index("jobs_of_caller", "jobs", ["caller", "number"])
    op.create_index("jobs_expiry", "jobs", ["expires_at"])


def _create_events_and_images() -> None:
    op.create_table(
        "events",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("progress", sa.Float, nullable=False),
        sa.Column("position", sa.Integer),
    )
    op.create_table(
        "images",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record", sa.JSON, nullable=False),
        sa.Column("closest", sa.JSON),
    )
