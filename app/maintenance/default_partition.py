"""Moves the rows of the default partition into partitions of their own days (docs/decisions/0018).

The rows are copied, in small batches beside ingest, into the tables of their days. One short transaction then copies
the rest, detaches the default partition, and attaches the days and an empty default partition. It scans nothing, and no
reader misses an event or sees it twice. A run that is cut off is resumed where it stopped.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import structlog
from psycopg import sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import in_short_tries, named, wait_for_older_snapshots
from app.maintenance.event_copy import (
    BEGIN_OF_TIME,
    END_OF_TIME,
    LOWEST_UID,
    USE_INDEX,
    EventCopy,
    Position,
    last_position,
)
from app.maintenance.partitions import Partition
from app.maintenance.purge import BATCH_ROWS
from app.maintenance.task import StopCheck, TaskResult, in_batches, never

_log = structlog.get_logger()

_DEFAULT: Final = sql.Identifier("events_default")
_NEXT_DEFAULT: Final = sql.Identifier("events_default_next")
_FORMER_DEFAULT: Final = sql.Identifier("events_default_former")
# Shorter than a purge's: the sooner today has a partition, the less there is to copy.
_RESTS: Final = 0.5
_SNAPSHOT_WAIT_SECONDS: Final = 30.0
# What is copied while ingest stands still: a third of a second. There are more if a group of events has been under way
# for long, or if a clock was ahead until a moment ago: of the time that comes again nothing can be copied before.
_REST_ROWS_MAX: Final = 10_000
# By the index of the default partition, one look-up a day.
_DAYS: Final = """
    WITH RECURSIVE days AS (
        SELECT (min(received_at) AT TIME ZONE 'UTC')::date AS day FROM events_default
        UNION ALL
        SELECT (SELECT (min(received_at) AT TIME ZONE 'UTC')::date FROM events_default
                WHERE received_at >= (day + 1)::timestamp AT TIME ZONE 'UTC')
        FROM days WHERE day IS NOT NULL
    )
    SELECT day FROM days WHERE day IS NOT NULL
"""
_COLUMNS: Final = """
    SELECT array_agg((attname, atttypid, attcollation)::text ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped
"""
_HAS_COLUMNS: Final = f"""
    SELECT ({_COLUMNS.format("'events'::regclass")}) = ({_COLUMNS.format("to_regclass(%s)")})
"""
# The constraint spares PostgreSQL a scan of the table when it is attached. The policies come before the first row: a
# role may have been granted all future tables, and the table may stay detached for hours.
_CREATE_DAY: Final = sql.SQL("""
    CREATE TABLE {next} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
        CONSTRAINT {key} PRIMARY KEY (project_id, received_at, event_uid),
        CONSTRAINT within_day CHECK (received_at >= {begin} AND received_at < {end}));
    CREATE INDEX ON {next} (project_id, position);
    SELECT copy_event_policies({name})
""")
_ATTACH_DAY: Final = sql.SQL("""
    ALTER TABLE {next} RENAME TO {table};
    ALTER TABLE events ATTACH PARTITION {table} FOR VALUES {bounds};
    ALTER TABLE {table} DROP CONSTRAINT within_day
""")
_CREATE_DEFAULT: Final = sql.SQL("""
    CREATE TABLE {next} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
        PRIMARY KEY (project_id, received_at, event_uid));
    CREATE INDEX ON {next} (received_at, event_uid);
    CREATE INDEX ON {next} (project_id, position);
    SELECT copy_event_policies('events_default_next')
""").format(next=_NEXT_DEFAULT)
_LOCK: Final = "LOCK TABLE ONLY events, ONLY events_default IN ACCESS EXCLUSIVE MODE"
_CHANGE_DEFAULT: Final = sql.SQL("""
    ALTER TABLE events DETACH PARTITION {default};
    ALTER TABLE {default} RENAME TO {former};
    ALTER TABLE {next} RENAME TO {default}
""").format(default=_DEFAULT, former=_FORMER_DEFAULT, next=_NEXT_DEFAULT)
_ATTACH_DEFAULT: Final = "ALTER TABLE events ATTACH PARTITION events_default DEFAULT"


class _RestTooLargeError(Exception):
    """Ingest would stand still while the last events are copied."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    connection: Connection
    is_over: StopCheck
    batch_rows: int
    rests: float

    def copy(self, copy: EventCopy) -> bool:
        """Copy in batches; whether all present events are copied, rather than time being over."""

        def copy_batch() -> int:
            return copy.copy_batch(self.connection, self.batch_rows)

        return not in_batches(copy_batch, self.batch_rows, self.is_over, rests=self.rests).has_more

    def swap(self, days: list[Partition], copies: list[EventCopy]) -> int:
        """In one transaction, replace the full default partition by the days and an empty one.

        Returns how many events were copied in all. `copies` stay as they are, for a further try. Raises
        _RestTooLargeError.
        """
        run = self.connection.execute
        run(_CREATE_DEFAULT)
        lasts = [replace(each) for each in copies]
        for day, last in zip(days, lasts, strict=True):
            run("SELECT copy_event_policies(%s::text::regclass)", [_next(day)])
            while last.copy_batch(self.connection, self.batch_rows) >= self.batch_rows:
                pass
        if sum(last.rest(self.connection, _REST_ROWS_MAX) for last in lasts) >= _REST_ROWS_MAX:
            raise _RestTooLargeError
        now: datetime = run("SELECT clock_timestamp()").fetchall()[0][0]
        run(_LOCK)
        for last in lasts:
            last.copy_rest(self.connection, now)
        run(_CHANGE_DEFAULT)
        for day in days:
            run(_ATTACH_DAY.format(next=sql.Identifier(_next(day)), table=day.table, bounds=day.bounds))
        run(_ATTACH_DEFAULT)
        return sum(last.copied for last in lasts)

    def empty_former(self) -> TaskResult:
        """Copy from the former default partition what the copies have missed, and drop it.

        A day that was dropped in between, for its age, comes back with such a row, and is dropped again.
        """
        if not _exists(self.connection, "events_default_former"):
            return TaskResult(0)
        first = Position(BEGIN_OF_TIME, LOWEST_UID)
        copy = EventCopy(
            _FORMER_DEFAULT, sql.Identifier("events"), BEGIN_OF_TIME, END_OF_TIME, after=first, is_source_open=False
        )
        if not self.copy(copy):
            return TaskResult(copy.copied, has_more=True)
        self.connection.execute(sql.SQL("DROP TABLE {}").format(_FORMER_DEFAULT))
        if copy.copied:
            _log.info("stranded_events_came_late", rows=copy.copied)
        return TaskResult(copy.copied)


def move_default_partition_rows(
    owner: Owner,
    *,
    is_over: StopCheck = never,
    batch_rows: int = BATCH_ROWS,
    rests: float = _RESTS,
    snapshot_wait_seconds: float = _SNAPSHOT_WAIT_SECONDS,
) -> TaskResult:
    """Move the rows of the default partition to partitions of their days; returns how many events it copied.

    1. Empty the former default partition, if an earlier run was cut off before.
    2. Copy the events of each day into its table, or resume that.
    3. Wait for the transactions whose snapshot is older than the copies and would not see them.
    4. Swap the tables in one short transaction.
    5. Empty the former default partition.

    The next run resumes if time is over, step 3 waits in vain, or step 4 would copy too much. Raises LockNotAvailable,
    naming who has held `events`.
    """
    with owner.locked() as connection:
        move = _Move(connection=connection, is_over=is_over, batch_rows=batch_rows, rests=rests)
        connection.execute(USE_INDEX)
        late = move.empty_former()
        days = [] if late.has_more else [Partition(day) for (day,) in connection.execute(_DAYS).fetchall()]
        if not days:
            return late
        copies = [_begin_or_resume(connection, day) for day in days]
        if not (all(move.copy(each) for each in copies) and _snapshots_are_gone(connection, snapshot_wait_seconds)):
            return TaskResult(late.rows + sum(each.copied for each in copies), has_more=True)
        try:
            copied = in_short_tries(connection, ["events", "events_default"], lambda: move.swap(days, copies))
        except _RestTooLargeError:
            _log.warning("stranded_events_wait", rows_max=_REST_ROWS_MAX)
            return TaskResult(late.rows + sum(each.copied for each in copies), has_more=True)
        _log.info("stranded_events_settled", partitions=[day.name for day in days], rows=copied)
        late = move.empty_former()
    return TaskResult(copied + late.rows, has_more=late.has_more)


def _next(day: Partition) -> str:
    """The table of a day until it is attached."""
    return f"{day.name}_next"


def _begin_or_resume(connection: Connection, day: Partition) -> EventCopy:
    """The copying of a day; from its beginning if `events` has other columns than an earlier run has found."""
    name, table = _next(day), sql.Identifier(_next(day))
    if _exists(connection, name) and connection.execute(_HAS_COLUMNS, [name]).fetchone() != (True,):
        connection.execute(sql.SQL("DROP TABLE {}").format(table))
    if not _exists(connection, name):
        key = sql.Identifier(f"{day.name}_pkey")
        connection.execute(_CREATE_DAY.format(next=table, name=name, key=key, begin=day.begin, end=day.end))
    after = last_position(connection, table) or Position(day.begin, LOWEST_UID)
    return EventCopy(_DEFAULT, table, day.begin, day.end, after=after)


def _snapshots_are_gone(connection: Connection, wait_seconds: float) -> bool:
    blockers = wait_for_older_snapshots(connection, wait_seconds)
    if blockers:
        _log.warning("stranded_events_wait", blockers=named(blockers))
    return not blockers


def _exists(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone() == (True,)
