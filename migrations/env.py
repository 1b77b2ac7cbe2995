"""Runs migrations impatiently: short timeouts, one transaction each. That only one runs is the caller's care."""

from alembic import context
from sqlalchemy import Connection, text

from app.models import Base

# A migration that waits for a lock makes everybody behind it wait too; better it fails, and is run again.
LOCK_TIMEOUT_MILLISECONDS = 4_000
STATEMENT_TIMEOUT_MILLISECONDS = 60_000


def run(connection: Connection) -> None:
    connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
    connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MILLISECONDS}"))
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
