"""Whether ingest waits for a table: for PostgreSQL a row, a table and a workspace are one and the same error.

After a wait that took too long, pg_locks shows which it was; the error's text does too, but in the server's language. A
wait for a table concerns all workspaces and is over when the table is free: no attempt is to blame.
"""

import time
from typing import Final

import psycopg

from app.database.dedicated_connection import DedicatedConnection
from app.errors import StorageUnavailable
from app.ingest.storage import Execute

_DEADLINE_SECONDS: Final = 1.0

# Held, or asked for before us: both block. Of the partitions only the one that receives events counts.
_IS_TABLE_LOCKED: Final = """
    SELECT EXISTS (
        SELECT 1 FROM pg_locks AS held
        WHERE held.locktype = 'relation' AND held.pid <> pg_backend_pid()
            AND held.database = (SELECT oid FROM pg_database WHERE datname = current_database())
            AND (
                held.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                AND held.relation = ANY (ARRAY[to_regclass('events'), to_regclass('event_ledger'),
                    to_regclass('idempotency_records'), to_regclass('usage_outbox'),
                    coalesce(to_regclass('events_' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')),
                        to_regclass('events_default'))])
                OR held.mode = 'AccessExclusiveLock'
                AND held.relation = ANY (ARRAY[to_regclass('source_keys'), to_regclass('sources'),
                    to_regclass('environments'), to_regclass('projects'), to_regclass('workspaces')])
            )
    )
"""


def is_table_locked(execute: Execute) -> bool:
    """Whether another transaction holds or awaits a lock that keeps every event from being written."""
    ((is_locked,),) = execute(_IS_TABLE_LOCKED, ())
    return bool(is_locked)


def waits_for_table(connection: DedicatedConnection) -> bool:
    """As is_table_locked, for a statement of `connection` that was given up. True if PostgreSQL does not answer."""
    try:
        deadline = time.monotonic() + _DEADLINE_SECONDS
        return is_table_locked(lambda statement, parameters: connection.run(statement, parameters, deadline))
    except (StorageUnavailable, psycopg.Error):
        return True
