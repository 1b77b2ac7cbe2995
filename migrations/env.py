"""Runs migrations with short timeouts, each in a transaction of its own. The caller sees to it that only one runs."""

from alembic import context
from sqlalchemy import Connection, text

from app.models import Base

# A migration that waits for a lock makes every statement behind it wait too; it had better fail and be run again.
LOCK_TIMEOUT_MILLISECONDS = 4_000
STATEMENT_TIMEOUT_MILLISECONDS = 60_000
# No migration names a schema: the tables lie in the connection's. Functions that run as the owner keep this path
# (SET search_path FROM CURRENT). pg_temp comes last, or a caller's temporary table could stand in for one of ours.
_SEARCH_PATH = "SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', false)"


def run(connection: Connection) -> None:
    connection.execute(text(_SEARCH_PATH))
    connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
    connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MILLISECONDS}"))
    connection.commit()
    context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
