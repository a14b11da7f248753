"""Alembic's environment: runs in the connection that `survey.schema.migrate` hands over."""

from alembic import context

from survey.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
