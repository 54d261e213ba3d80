"""The tables of jobs, as the code reads and writes them; how a database comes to have them, the migrations say.

Times are seconds since 1970 in UTC. On PostgreSQL they come from the server's clock, so that machines whose clocks
differ agree on when a lease ends.
"""

import sqlalchemy as sa

metadata = sa.MetaData()
_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts up an INTEGER alone

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", _KEY, primary_key=True, autoincrement=True),  # order of acceptance
    sa.Column("job_id", sa.String(64), nullable=False, unique=True),
    sa.Column("caller", sa.String(128), nullable=False),
    sa.Column("key_prefix", sa.String(32)),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),  # a larger one goes first
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("idempotency_digest", sa.String(64)),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Float, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("spec", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON),  # once succeeded: matches, and the folder of the pictures
    sa.Column("error", sa.JSON),  # once failed
    sa.Column("last_event", sa.Integer, nullable=False, server_default="1"),
    sa.Column("token", sa.Integer, nullable=False, server_default="0"),  # of the last claim; only its holder may write
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),  # times that generation began
    sa.Column("runner", sa.String(64)),
    sa.Column("lease_until", sa.Double),
    sa.UniqueConstraint("caller", "idempotency_key", name="jobs_idempotency"),
    sa.Index("jobs_queue", "state", "priority", "number"),
    sa.Index("jobs_of_caller", "caller", "number"),
    sa.Index("jobs_expiry", "expires_at"),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1, without gaps
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("progress", sa.Float, nullable=False),
    sa.Column("position", sa.Integer),  # jobs ahead of it when it was accepted
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.job_id", ondelete="CASCADE"), primary_key=True),
    sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),  # from 0, as in `seeds`
    sa.Column("record", sa.JSON, nullable=False),  # as the manifest has it: a cover, or why it was refused
    sa.Column("closest", sa.JSON),  # the match of the catalogue nearest to it
)
