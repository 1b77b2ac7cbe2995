"""Builds the search indexes of each closed day of events, and freezes the day.

An open day has its primary key alone, because each further index costs every event. The build is CONCURRENTLY, so that
a late commit does not wait for it. It ends by waiting for every older transaction, on any table, and blocks no session
meanwhile. So its timeout is long: an abandoned build leaves an invalid index and an hour of work to repeat. Instead it
does not begin before all older transactions have ended.
"""

from datetime import datetime
from typing import Final

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import current_transaction, named, older_snapshots, wait_for_older_snapshots
from app.maintenance.partitions import Partition, attached_partitions, first_open_day
from app.maintenance.task import StopCheck, TaskResult, never

_log = structlog.get_logger()

INDEXES: Final = {
    "event_type": "(project_id, event_type, received_at)",
    "source": "(project_id, source_id, received_at)",
    "source_key": "(project_id, source_key_id, received_at)",
    "event_id": "(project_id, event_id)",
    "payload": "USING gin (payload jsonb_path_ops)",
}
"""Name suffix and definition. `source_key` finds what a leaked key has sent."""

# An interrupted build leaves an index that is not valid.
_FOUND: Final = """
    SELECT relname, indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(%s)
"""
# Indexes are not urgent, but a run must end before Celery ends it (app/maintenance/schedule.py).
_BEGIN_WAIT_SECONDS: Final = 10.0
_BUILD_SECONDS_MAX: Final = 1_500.0
_TIMEOUTS: Final = sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}")
_RESET_TIMEOUTS: Final = "RESET lock_timeout; RESET statement_timeout"


def index_closed_partitions(
    owner: Owner,
    *,
    now: datetime,
    is_over: StopCheck = never,
    begin_wait_seconds: float = _BEGIN_WAIT_SECONDS,
    build_seconds_max: float = _BUILD_SECONDS_MAX,
) -> TaskResult:
    """Build the missing indexes of closed days, the newest day first; returns how many were built.

    For each missing index:
    1. Wait until the transactions that are older have ended.
    2. Drop what an interrupted build has left, and build the index: some seconds per million events.
    Then vacuum and freeze the day.

    Stops between two indexes. Raises LockNotAvailable, naming the transactions that are too old to wait for.
    """
    built = 0
    with owner.locked() as connection:
        closed = [each for each in attached_partitions(connection) if each.day < first_open_day(now)]
        for partition in reversed(closed):
            missing = _missing(connection, partition)
            for name in missing:
                if is_over():
                    return TaskResult(built, has_more=True)
                _wait_for_older_transactions(connection, index_name(partition, name), begin_wait_seconds)
                _build(connection, partition, name, build_seconds_max)
                built += 1
            if missing:
                _freeze(connection, partition)
    return TaskResult(built)


def index_name(partition: Partition, name: str) -> str:
    """The name of an index on one partition."""
    return f"ix_{partition.name}_{name}"


def _missing(connection: Connection, partition: Partition) -> list[str]:
    found = dict(connection.execute(_FOUND, [partition.name]).fetchall())
    return [name for name in INDEXES if not found.get(index_name(partition, name))]


def _wait_for_older_transactions(connection: Connection, index: str, seconds: float) -> None:
    if blockers := wait_for_older_snapshots(connection, seconds):
        raise errors.LockNotAvailable(f"{index} is not begun while {named(blockers)} is open")


def _build(connection: Connection, partition: Partition, name: str, seconds_max: float) -> None:
    index = sql.Identifier(index_name(partition, name))
    connection.execute(_TIMEOUTS.format(round(seconds_max * 1000)))
    began = current_transaction(connection)
    try:
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index))
        create = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} {}")
        connection.execute(create.format(index, partition.table, sql.SQL(INDEXES[name])))
    except errors.QueryCanceled as error:
        waited_for = named(older_snapshots(connection, began))
        raise errors.LockNotAvailable(f"{index_name(partition, name)} waited in vain for {waited_for}") from error
    connection.execute(_RESET_TIMEOUTS)
    _log.info("search_index_built", partition=partition.name, index=name)


def _freeze(connection: Connection, partition: Partition) -> None:
    """The day gets no more writes, so that after this no later vacuum has to scan it."""
    connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(partition.table))
