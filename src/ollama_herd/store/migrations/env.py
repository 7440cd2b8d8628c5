"""Run by Alembic: migrates over the connection, in the transaction, that `migrate.py` opened."""

from alembic import context

from ollama_herd.store.migrate import VERSION_TABLE
from ollama_herd.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,  # Alembic's default for SQLite expects a driver that commits by itself
)
context.run_migrations()
