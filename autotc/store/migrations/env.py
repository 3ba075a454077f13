"""Alembic's entry: runs the migrations on the connection, and in the transaction, of the store."""

from alembic import context

from autotc.store.schema import VERSION_TABLE, Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    # SQLite cannot alter columns in place; batch mode copies the table
    render_as_batch=True,
    transactional_ddl=True,
)
with context.begin_transaction():
    context.run_migrations()
