"""Alembic's environment: it uses the connection of `survey.database.schema.migrate`."""

from alembic import context

from survey.database.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
