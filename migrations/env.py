"""Runs migrations impatiently: short timeouts, one at a time, one transaction each."""

from alembic import context
from sqlalchemy import Connection, text

from app.models import Base

# A migration that waits for a lock makes everybody behind it wait too; better it fails, and is run again.
LOCK_TIMEOUT_MILLISECONDS = 4_000
STATEMENT_TIMEOUT_MILLISECONDS = 60_000
# Any number that nothing else locks; two deploys at once then run one after the other.
ADVISORY_LOCK = 0x6C617269_62610001


def run(connection: Connection) -> None:
    # Before the time-outs are set: the second of two deploys waits for the first one's whole work.
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
    connection.execute(text(f"SET lock_timeout = {LOCK_TIMEOUT_MILLISECONDS}"))
    connection.execute(text(f"SET statement_timeout = {STATEMENT_TIMEOUT_MILLISECONDS}"))
    connection.commit()
    try:
        context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


run(context.config.attributes["connection"])
