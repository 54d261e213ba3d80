"""Tables of jobs, API keys, usage, audit, webhook deliveries and batches, as the code reads and writes them; migrations
create them.

Times are seconds since 1970 in UTC. On PostgreSQL they come from the server's clock, so that machines whose clocks
differ agree on when a lease ends.
"""

import sqlalchemy as sa

metadata = sa.MetaData()
EVENTS_CHANNEL = "gatefold_events"
"""of PostgreSQL: the state of each event, once it is written"""
_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite increments only an INTEGER by itself
_CLAIMED, _UNFINISHED = sa.text("token > 0"), sa.text("finished_at IS NULL")  # no parameters: of an index

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("number", _KEY, primary_key=True, autoincrement=True),  # order of acceptance
    sa.Column("job_id", sa.String(64), nullable=False, unique=True),
    sa.Column("caller", sa.String(128), nullable=False),
    sa.Column("key_prefix", sa.String(32)),
    sa.Column("priority", sa.Integer, nullable=False, server_default="0"),  # a larger one goes first
    sa.Column("turn", sa.Integer, nullable=False, server_default="0"),  # within a priority: rows.next_turn
    sa.Column("covers", sa.Integer, nullable=False, server_default="0"),  # that were asked for
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
    sa.Column("lease_until", sa.Double),  # end of the claim; of a queued job, the earliest time of its next attempt
    sa.Column("batch_id", sa.String(64)),  # of the batch that it is a line of; it is kept as long as that
    sa.Column("cancel_at", sa.Double),  # if it has not ended by then
    sa.Column("webhook_url", sa.Text),
    sa.Column("webhook_events", sa.JSON),  # those that it wants; all without it
    sa.UniqueConstraint("caller", "idempotency_key", name="jobs_idempotency"),
    sa.Index("jobs_queue", "state", sa.text("priority DESC"), "turn", "number"),
    sa.Index("jobs_claimed", "priority", "turn", postgresql_where=_CLAIMED, sqlite_where=_CLAIMED),
    sa.Index("jobs_unfinished", "caller", "priority", "turn", postgresql_where=_UNFINISHED, sqlite_where=_UNFINISHED),
    sa.Index("jobs_of_caller", "caller", "number"),
    sa.Index("jobs_expiry", "expires_at"),
    sa.Index("jobs_overdue", "cancel_at"),
    sa.Index("jobs_finished", "finished_at"),
    sa.Index("jobs_of_batch", "batch_id", "state"),
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

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("key", sa.String(32), primary_key=True),  # how the secret begins; jobs, usage and audit name it so
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),  # SHA-256 of the secret
    sa.Column("previous_digest", sa.String(64)),  # of the secret before the last rotation
    sa.Column("previous_until", sa.Double),  # until which that one is still accepted
    sa.Column("scopes", sa.String(64), nullable=False),  # separated by spaces
    sa.Column("requests_per_minute", sa.Integer),  # null is no limit, here and below
    sa.Column("jobs_at_once", sa.Integer),
    sa.Column("covers_per_month", sa.Integer),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("expires_at", sa.Double),
    sa.Column("revoked_at", sa.Double),
    sa.Column("webhook_url", sa.Text),  # of its jobs that name none
    sa.Column("webhook_events", sa.JSON),
)

usage = sa.Table(
    "usage",
    metadata,
    sa.Column("caller", sa.String(128), primary_key=True),
    sa.Column("day", sa.Date, primary_key=True),  # in UTC
    sa.Column("searches", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("covers", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("generation_s", sa.Double, nullable=False, server_default="0"),
)

audit = sa.Table(
    "audit",
    metadata,
    sa.Column("number", _KEY, primary_key=True, autoincrement=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("caller", sa.String(128), nullable=False),  # a key, or who used the command line
    sa.Column("action", sa.String(128), nullable=False),
    sa.Column("target", sa.String(1024), nullable=False),
    sa.Column("result", sa.String(64)),  # status of the answer; null where the process ended before it
)

deliveries = sa.Table(
    "deliveries",
    metadata,
    sa.Column("delivery_id", _KEY, primary_key=True, autoincrement=True),
    sa.Column("job_id", sa.String(64), nullable=False),  # no foreign key: it may outlive its job
    sa.Column("number", sa.Integer, nullable=False),  # of the job's, from 1
    sa.Column("event", sa.String(32), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("receiver", sa.String(300), nullable=False),  # host and port, without what may be secret in the URL
    sa.Column("body", sa.Text, nullable=False),  # the same in every attempt
    sa.Column("state", sa.String(16), nullable=False, server_default="pending"),  # then delivered, or failed
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False),  # before which nobody tries
    sa.Column("since", sa.Double, nullable=False),  # when it was last made pending
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),  # attempts since then
    sa.Column("token", sa.Integer, nullable=False, server_default="0"),  # of the last claim, as of jobs
    sa.Column("lease_until", sa.Double),
    sa.UniqueConstraint("job_id", "number", name="deliveries_of_job"),
    sa.Index("deliveries_due", "state", "next_at"),
)

delivery_attempts = sa.Table(
    "delivery_attempts",
    metadata,
    sa.Column(
        "delivery_id", _KEY, sa.ForeignKey("deliveries.delivery_id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),  # from 1
    sa.Column("at", sa.Double, nullable=False),  # when its answer was there
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("status", sa.Integer),  # of HTTP; null where there was no answer
    sa.Column("answer", sa.Text),  # its beginning
    sa.Column("error", sa.Text),  # why there was none
)

batches = sa.Table(
    "batches",
    metadata,
    sa.Column("number", _KEY, primary_key=True, autoincrement=True),  # order of arrival
    sa.Column("batch_id", sa.String(64), nullable=False, unique=True),
    sa.Column("caller", sa.String(128), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),  # arriving, running, completed, cancelled, expired
    sa.Column("lines", sa.Integer, nullable=False, server_default="0"),
    # lines of each kind that were claimed, and with how many it began: store.BatchStore.arrived
    sa.Column("cover_turn", sa.Integer, nullable=False, server_default="0"),
    sa.Column("search_turn", sa.Integer, nullable=False, server_default="0"),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("ends_at", sa.Double, nullable=False),  # when it expires if it is not completed
    sa.Column("finished_at", sa.Double),
    sa.Column("expires_at", sa.Double),  # when it is deleted
    sa.Column("idempotency_key", sa.String(255)),
    sa.Column("idempotency_digest", sa.String(64)),  # of its lines
    sa.Index("batches_by_state", "state", "number"),
    sa.Index("batches_idempotency", "caller", "idempotency_key"),
)

batch_lines = sa.Table(
    "batch_lines",
    metadata,
    sa.Column("batch", _KEY, sa.ForeignKey("batches.number", ondelete="CASCADE"), primary_key=True),
    sa.Column("line", sa.Integer, primary_key=True, autoincrement=False),  # in the file, from 1
    sa.Column("custom_id", sa.String(128), nullable=False),
    sa.Column("url", sa.String(64), nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, server_default="waiting"),  # then job or answered; or skipped
    sa.Column("token", sa.Integer, nullable=False, server_default="0"),  # of the last claim, as of jobs
    sa.Column("lease_until", sa.Double),
    sa.Column("job_id", sa.String(64)),  # of new covers
    sa.Column("status", sa.Integer),  # once answered without a job: of HTTP
    sa.Column("answer", sa.JSON),
    sa.Index("batch_lines_waiting", "batch", "state", "url", "line"),
    sa.Index("batch_lines_of_job", "job_id"),
)
