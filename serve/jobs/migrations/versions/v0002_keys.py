"""Tables of API keys, their usage and the audit; the turn of a job, by which keys take turns in the queue."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables `keys`, `usage` and `audit`, and gives `jobs` a turn and a number of covers."""
    _create_keys()
    _create_usage_and_audit()
    _change_jobs()


def _create_keys() -> None:
    op.create_table(
        "keys",
        sa.Column("key", sa.String(32), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("previous_digest", sa.String(64)),
        sa.Column("previous_until", sa.Double),
        sa.Column("scopes", sa.String(64), nullable=False),
        sa.Column("requests_per_minute", sa.Integer),
        sa.Column("jobs_at_once", sa.Integer),
        sa.Column("covers_per_month", sa.Integer),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
    )


def _create_usage_and_audit() -> None:
    op.create_table(
        "usage",
        sa.Column("caller", sa.String(128), primary_key=True),
        sa.Column("day", sa.Date, primary_key=True),
        sa.Column("searches", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("covers", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("generation_s", sa.Double, nullable=False, server_default="0"),
    )
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "audit",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("caller", sa.String(128), nullable=False),
        sa.Column("action", sa.String(128), nullable=False),
        sa.Column("target", sa.String(1024), nullable=False),
        sa.Column("result", sa.String(64)),
    )


def _change_jobs() -> None:
    """Jobs that wait keep their order: all of them have the first turn, and go by number."""
    claimed, unfinished = sa.text("token > 0"), sa.text("finished_at IS NULL")
    op.add_column("jobs", sa.Column("turn", sa.Integer, nullable=False, server_default="0"))
    op.add_column("jobs", sa.Column("covers", sa.Integer, nullable=False, server_default="0"))
    op.drop_index("jobs_queue", "jobs")
    op.create_index("jobs_queue", "jobs", ["state", sa.text("priority DESC"), "turn", "number"])
    op.create_index("jobs_claimed", "jobs", ["priority", "turn"], postgresql_where=claimed, sqlite_where=claimed)
    columns = ["caller", "priority", "turn"]
    op.create_index("jobs_unfinished", "jobs", columns, postgresql_where=unfinished, sqlite_where=unfinished)
