"""Compares the counts of each closed day with its events, builds the day's search indexes, and freezes it.

An open day has two indexes alone, because each further one costs every event, and a closed day has one more: the skip
index (event_segments) serves searches, on open days too. The build is CONCURRENTLY, so that
a late commit does not wait for it. It ends by waiting for every older transaction, on any table, and blocks no session
meanwhile. So its timeout is long: an abandoned build leaves an invalid index and an hour of work to repeat. Instead it
does not begin before all older transactions have ended.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, NamedTuple

import structlog
from psycopg import errors, sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import current_transaction, named, older_snapshots, wait_for_older_snapshots
from app.maintenance.event_counts import correct_counts
from app.maintenance.partitions import Partition, attached_partitions, first_open_day
from app.maintenance.task import StopCheck, TaskResult, never

_log = structlog.get_logger()

INDEXES: Final = {
    "event_id": "USING hash (event_id)",
}
"""Name suffix and definition, as PostgreSQL shows it: an index with another one is replaced."""
_ABOLISHED: Final = ("payload", "source_key", "event_type", "severity", "source")
"""Of earlier versions: all of these are searched by event_segments."""

# An interrupted build leaves an index that is not valid.
_FOUND: Final = """
    SELECT relname, indisvalid, pg_get_indexdef(indexrelid) FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE indrelid = to_regclass(%s)
"""
_FORMER_IS_THERE: Final = "SELECT to_regclass('events_default_former') IS NOT NULL"
_IS_IN_FORMER: Final = """
    SELECT EXISTS (SELECT FROM events_default_former WHERE received_at >= %s AND received_at < %s)
"""
# Indexes are not urgent, but a run must end before Celery ends it (app/maintenance/schedule.py).
_BEGIN_WAIT_SECONDS: Final = 10.0
_BUILD_SECONDS_MAX: Final = 1_500.0
_TIMEOUTS: Final = sql.SQL("SET lock_timeout = 0; SET statement_timeout = {}")
_RESET_TIMEOUTS: Final = "RESET lock_timeout; RESET statement_timeout"


class _Changes(NamedTuple):
    """What a day's indexes lack."""

    missing: list[str]
    abolished: list[str]


def index_closed_partitions(
    owner: Owner,
    *,
    now: datetime,
    is_over: StopCheck = never,
    begin_wait_seconds: float = _BEGIN_WAIT_SECONDS,
    build_seconds_max: float = _BUILD_SECONDS_MAX,
) -> TaskResult:
    """Build the missing indexes of closed days, the newest day first; returns how many were built.

    For each day without all of them:
    1. Compare the counts of its events with the events, and correct them.
    2. For each missing index, wait until the transactions that are older have ended, drop what an interrupted build has
       left, and build the index: some seconds per million events.
    3. Drop the indexes of earlier versions.
    4. Vacuum and freeze the day.

    Stops between two indexes. A day of which a former default partition still holds events is left to the next run: the
    comparison would miss them. Raises LockNotAvailable, naming the transactions that are too old to wait for.
    """
    built = 0
    with owner.locked() as connection:
        closed = [each for each in attached_partitions(connection) if each.day < first_open_day(now)]
        for partition in reversed(closed):
            changes = _changes(connection, partition)
            if changes.missing and _is_in_former_default(connection, partition):
                continue
            if changes.missing:
                correct_counts(connection, partition)
            for name in changes.missing:
                if is_over():
                    return TaskResult(built, has_more=True)
                _wait_for_older_transactions(connection, index_name(partition, name), begin_wait_seconds)
                _build(connection, partition, name, build_seconds_max)
                built += 1
            for name in changes.abolished:
                _drop(connection, partition, name, build_seconds_max)
            if changes.missing:
                _freeze(connection, partition)
    return TaskResult(built)


def index_name(partition: Partition, name: str) -> str:
    """The name of an index on one partition."""
    return f"ix_{partition.name}_{name}"


def _is_in_former_default(connection: Connection, partition: Partition) -> bool:
    if connection.execute(_FORMER_IS_THERE).fetchone() == (False,):
        return False
    return connection.execute(_IS_IN_FORMER, [partition.begin, partition.end]).fetchone() == (True,)


def _changes(connection: Connection, partition: Partition) -> _Changes:
    found = {name: rest for name, *rest in connection.execute(_FOUND, [partition.name]).fetchall()}

    def is_right(name: str) -> bool:
        is_valid, definition = found.get(index_name(partition, name), (False, ""))
        return bool(is_valid and definition.endswith(INDEXES[name]))

    return _Changes(
        missing=[name for name in INDEXES if not is_right(name)],
        abolished=[name for name in _ABOLISHED if index_name(partition, name) in found],
    )


def _wait_for_older_transactions(connection: Connection, index: str, seconds: float) -> None:
    if blockers := wait_for_older_snapshots(connection, seconds):
        raise errors.LockNotAvailable(f"{index} is not begun while {named(blockers)} is open")


def _build(connection: Connection, partition: Partition, name: str, seconds_max: float) -> None:
    index = sql.Identifier(index_name(partition, name))
    with _patience(connection, index_name(partition, name), seconds_max):
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(index))
        create = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} {}")
        connection.execute(create.format(index, partition.table, sql.SQL(INDEXES[name])))
    _log.info("search_index_built", partition=partition.name, index=name)


def _drop(connection: Connection, partition: Partition, name: str, seconds_max: float) -> None:
    """Waits for those who use it, and for no others."""
    index = index_name(partition, name)
    with _patience(connection, index, seconds_max):
        connection.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(index)))
    _log.info("search_index_dropped", partition=partition.name, index=name)


@contextmanager
def _patience(connection: Connection, index: str, seconds: float) -> Iterator[None]:
    connection.execute(_TIMEOUTS.format(round(seconds * 1000)))
    began = current_transaction(connection)
    try:
        yield
    except errors.QueryCanceled as error:
        waited_for = named(older_snapshots(connection, began))
        raise errors.LockNotAvailable(f"{index} waited in vain for {waited_for}") from error
    connection.execute(_RESET_TIMEOUTS)


def _freeze(connection: Connection, partition: Partition) -> None:
    """The day gets no more writes, so that after this no later vacuum has to scan it."""
    connection.execute(sql.SQL("VACUUM (FREEZE, ANALYZE) {}").format(partition.table))
