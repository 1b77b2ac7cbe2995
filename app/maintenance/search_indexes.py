"""Gives each closed day of events the indexes that searching needs, and looks through it once for good.

While a day is open it has its primary key alone: each further index would be paid by every event. Built CONCURRENTLY,
so that an event whose commit comes late need not wait for it. Such a build ends by waiting for every transaction that
is older than it, whatever table that is about, and nobody waits behind it. So its waits have no short end: one that was
given up would leave an index of no use, and an hour of building to do again. Instead it begins when none of the
transactions of before is left.
"""

from datetime import datetime
from typing import Final

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import current_transaction, named, older_snapshots, wait_for_older_snapshots
from app.maintenance.partitions import Partition, attached_partitions, first_open_day
from app.maintenance.runs import Clock, Done, never

_log = structlog.get_logger()

INDEXES: Final = {
    "event_type": "(project_id, event_type, received_at)",
    "source": "(project_id, source_id, received_at)",
    "source_key": "(project_id, source_key_id, received_at)",
    "event_id": "(project_id, event_id)",
    "payload": "USING gin (payload jsonb_path_ops)",
}
"""What they are called after, and what they hold. `source_key` answers what a leaked key has sent."""

# One that was cut off in the middle is there and of no use.
_FOUND: Final = """
    SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(%s)
"""
# Indexes are wanted, not urgent; but a run must end before Celery ends it (app/maintenance/schedule.py).
_BEGIN_WAIT_SECONDS: Final = 10.0
_PATIENCE: Final = "SET lock_timeout = 0; SET statement_timeout = '25min'"
_AS_BEFORE: Final = "RESET lock_timeout; RESET statement_timeout"


def index_closed_partitions(owner: Owner, *, now: datetime, is_over: Clock = never) -> Done:
    """Build what is missing, the newest day first: it is what people search. Returns how many indexes were built.

    Stops between two indexes; one takes some seconds per million events. Raises LockNotAvailable, which names the
    transactions that are too old to wait for.
    """
    built = 0
    with owner.locked() as connection:
        closed = [each for each in attached_partitions(connection) if each.day < first_open_day(now)]
        for partition in reversed(closed):
            missing = _missing(connection, partition)
            for name in missing:
                if is_over():
                    return Done(built, has_more=True)
                _build(connection, partition, name)
                built += 1
            if missing:
                _look_through(connection, partition)
    return Done(built)


def index_name(partition: Partition, name: str) -> str:
    """What an index is called on one partition."""
    return f"ix_{partition.name}_{name}"


def _missing(connection: Connection, partition: Partition) -> list[str]:
    found = dict(connection.execute(_FOUND, [partition.name]).fetchall())
    return [name for name in INDEXES if not found.get(index_name(partition, name))]


def _build(connection: Connection, partition: Partition, name: str) -> None:
    if blockers := wait_for_older_snapshots(connection, _BEGIN_WAIT_SECONDS):
        raise errors.LockNotAvailable(f"{index_name(partition, name)} is not begun while {named(blockers)} is open")
    index = sql.Identifier(index_name(partition, name))
    connection.execute(_PATIENCE)
    began = current_transaction(connection)
    try:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index))
        create = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} {}")
        connection.execute(create.format(index, partition.table, sql.SQL(INDEXES[name])))
    except errors.QueryCanceled as error:
        waited_for = named(older_snapshots(connection, began))
        raise errors.LockNotAvailable(f"{index_name(partition, name)} waited in vain for {waited_for}") from error
    connection.execute(_AS_BEFORE)
    _log.info("search_index_built", partition=partition.name, index=name)


def _look_through(connection: Connection, partition: Partition) -> None:
    """Nothing is written to it any more: frozen now, no vacuum has to come back to it when it is least wanted."""
    connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(partition.table))
