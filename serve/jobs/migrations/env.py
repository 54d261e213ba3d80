"""Run by Alembic: applies the schema versions over the connection that serve.jobs.database hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
