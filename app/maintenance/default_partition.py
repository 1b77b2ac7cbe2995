"""Gives the events that the default partition has caught to partitions of their own days.

Whenever a partition is attached beside a default one, PostgreSQL looks through all of that for rows which belong into
the new one, and shuts its writers out meanwhile: ingest itself, as long as today has no partition. A CHECK would spare
it the look, but none can be valid before those events have gone; and had they gone into a table that is not attached
yet, nobody could read them.

So the events are copied, in small batches beside ingest, into the tables of their days. One short transaction then
copies the last of them, takes the default partition out, and puts the days and an empty default partition in. Nothing
is looked through in it, and nobody sees an event twice or not at all. All that a run has done stays: one that is cut
off is taken up where it was.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

import structlog
from psycopg import sql

from app.database.owner import Connection, Owner
from app.maintenance.blockers import in_short_tries, named, wait_for_older_snapshots
from app.maintenance.partitions import Partition
from app.maintenance.purge import BATCH_ROWS
from app.maintenance.runs import Clock, Done, in_batches, never

_log = structlog.get_logger()

_DEFAULT: Final = sql.Identifier("events_default")
_NEXT_DEFAULT: Final = sql.Identifier("events_default_next")
_FORMER_DEFAULT: Final = sql.Identifier("events_default_former")
# Shorter than a purge's: the sooner today has a partition, the less there is to copy.
_RESTS: Final = 0.5
_SNAPSHOTS_WAIT_SECONDS: Final = 30.0
# An event may commit a moment after one that was received later, and so behind the last that was copied. What comes
# even later than this is found when the former default partition is gone through. Only of what comes in just now: of a
# day that is over, millions may lie so near to the last one, and all of them would be looked at with writers shut out.
_LOOK_BACK: Final = timedelta(seconds=3)
_JUST_NOW: Final = timedelta(seconds=10)
_TICK: Final = timedelta(microseconds=1)
_EVER: Final = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_LOWEST: Final = UUID(int=0)
_HIGHEST: Final = UUID(int=(1 << 128) - 1)
# By the index of the default partition, a step a day.
_DAYS: Final = """
    WITH RECURSIVE stranded AS (
        SELECT (min(received_at) AT TIME ZONE 'UTC')::date AS day FROM events_default
        UNION ALL
        SELECT (SELECT (min(received_at) AT TIME ZONE 'UTC')::date FROM events_default
                WHERE received_at >= (day + 1)::timestamp AT TIME ZONE 'UTC')
        FROM stranded WHERE day IS NOT NULL
    )
    SELECT day FROM stranded WHERE day IS NOT NULL
"""
# By receipt, and within a moment by uid: millions of events may have come in one.
_SLICE: Final = sql.SQL("""
    SELECT n, received_at, event_uid FROM (
        SELECT row_number() OVER (ORDER BY received_at, event_uid) AS n, received_at, event_uid FROM {source}
        WHERE (received_at, event_uid) > (%s, %s) AND received_at < %s
        ORDER BY received_at, event_uid LIMIT %s
    ) AS slice ORDER BY n DESC LIMIT 1
""")
_COPY: Final = sql.SQL("""
    INSERT INTO {target} SELECT * FROM {source}
    WHERE (received_at, event_uid) > (%s, %s) AND (received_at, event_uid) <= (%s, %s)
    ON CONFLICT DO NOTHING
""")
_LAST_COPIED: Final = sql.SQL("SELECT received_at, event_uid FROM {} ORDER BY received_at DESC, event_uid DESC LIMIT 1")
_COLUMNS: Final = """
    SELECT array_agg((attname, atttypid, attcollation)::text ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = {} AND attnum > 0 AND NOT attisdropped
"""
_HAS_COLUMNS: Final = f"""
    SELECT ({_COLUMNS.format("'events'::regclass")}) = ({_COLUMNS.format("to_regclass(%s)")})
"""
# PostgreSQL cannot guess how few rows lie between two places, least of all if millions came in one moment: it would
# look through the whole table for each slice.
_BY_INDEX: Final = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"
# Its constraint says what PostgreSQL would otherwise look for in each of its rows when it is attached. It has its
# policies before its first row: a role may have been granted all future tables, and attaching may be hours away.
_CREATE_DAY: Final = sql.SQL("""
    CREATE TABLE {next} (LIKE events INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
        CONSTRAINT {key} PRIMARY KEY (project_id, received_at, event_uid),
        CONSTRAINT within_day CHECK (received_at >= {begin} AND received_at < {end}));
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
    SELECT copy_event_policies('events_default_next')
""").format(next=_NEXT_DEFAULT)
_LOCK: Final = "LOCK TABLE ONLY events, ONLY events_default IN ACCESS EXCLUSIVE MODE"
_CHANGE_DEFAULT: Final = sql.SQL("""
    ALTER TABLE events DETACH PARTITION {default};
    ALTER TABLE {default} RENAME TO {former};
    ALTER TABLE {next} RENAME TO {default}
""").format(default=_DEFAULT, former=_FORMER_DEFAULT, next=_NEXT_DEFAULT)
_ATTACH_DEFAULT: Final = "ALTER TABLE events ATTACH PARTITION events_default DEFAULT"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pace:
    is_over: Clock
    batch_rows: int
    rests: float


class _Place(NamedTuple):
    """Of an event, in order of receipt."""

    received_at: datetime
    event_uid: UUID


@dataclass(slots=True)
class _Copying:
    """Events on their way from one table into another one."""

    source: sql.Identifier
    target: sql.Identifier
    begin: datetime
    end: datetime
    after: _Place
    """The last event that was copied."""
    copied: int = 0

    def copy_slice(self, connection: Connection, batch_rows: int) -> int:
        """How many events it held, of which some may have been there already."""
        limits = [*self.after, self.end, batch_rows]
        found = connection.execute(_SLICE.format(source=self.source), limits).fetchone()
        if found is None:
            return 0
        rows, *until = found
        self._copy(connection, _Place(*until))
        return int(rows)

    def copy_the_last(self, connection: Connection, now: datetime) -> None:
        """With writers shut out: also what has committed behind the last that was copied."""
        if self.after.received_at > now - _JUST_NOW:
            self.after = _Place(max(self.after.received_at - _LOOK_BACK, self.begin), _LOWEST)
        self._copy(connection, _Place(self.end - _TICK, _HIGHEST))

    def _copy(self, connection: Connection, until: _Place) -> None:
        copy = _COPY.format(source=self.source, target=self.target)
        self.copied += connection.execute(copy, [*self.after, *until]).rowcount
        self.after = until


def settle_stranded_events(
    owner: Owner, *, is_over: Clock = never, batch_rows: int = BATCH_ROWS, rests: float = _RESTS
) -> Done:
    """Empty the default partition into partitions of its days, today's among them; returns how many events it copied.

    Goes on at the next run if time is over, or if somebody still looks at the tables with eyes from before the copies,
    to whom they do not exist. Raises LockNotAvailable, which names who has kept `events` from being changed.
    """
    pace = _Pace(is_over=is_over, batch_rows=batch_rows, rests=rests)
    with owner.locked() as connection:
        connection.execute(_BY_INDEX)
        late = _go_through_former(connection, pace)
        days = [] if late.has_more else [Partition(day) for (day,) in connection.execute(_DAYS).fetchall()]
        if not days:
            return late
        copies = [_begin_or_go_on(connection, day) for day in days]
        if not (all(_copy(connection, each, pace) for each in copies) and _nobody_looks_back(connection)):
            return Done(late.rows + sum(each.copied for each in copies), has_more=True)
        copied = in_short_tries(connection, ["events", "events_default"], lambda: _swap(connection, days, copies, pace))
        _log.info("stranded_events_settled", partitions=[day.name for day in days], rows=copied)
        late = _go_through_former(connection, pace)
    return Done(copied + late.rows, has_more=late.has_more)


def _next(day: Partition) -> str:
    """The table of a day, as long as it is not attached."""
    return f"{day.name}_next"


def _begin_or_go_on(connection: Connection, day: Partition) -> _Copying:
    """The copying of a day, where an earlier run has left it; anew if `events` has other columns since."""
    name, table = _next(day), sql.Identifier(_next(day))
    if _is_there(connection, name) and connection.execute(_HAS_COLUMNS, [name]).fetchone() != (True,):
        connection.execute(sql.SQL("DROP TABLE {}").format(table))
    if not _is_there(connection, name):
        key = sql.Identifier(f"{day.name}_pkey")
        create = _CREATE_DAY.format(next=table, name=name, key=key, begin=day.begin, end=day.end)
        connection.execute(create)
    last = connection.execute(_LAST_COPIED.format(table)).fetchone() or (day.begin, _LOWEST)
    return _Copying(_DEFAULT, table, begin=day.begin, end=day.end, after=_Place(*last))


def _copy(connection: Connection, copying: _Copying, pace: _Pace) -> bool:
    """Whether all is copied that is there by now."""

    def copy_batch() -> int:
        return copying.copy_slice(connection, pace.batch_rows)

    return not in_batches(copy_batch, pace.batch_rows, pace.is_over, rests=pace.rests).has_more


def _nobody_looks_back(connection: Connection) -> bool:
    blockers = wait_for_older_snapshots(connection, _SNAPSHOTS_WAIT_SECONDS)
    if blockers:
        _log.warning("stranded_events_wait", blockers=named(blockers))
    return not blockers


def _swap(connection: Connection, days: list[Partition], copies: list[_Copying], pace: _Pace) -> int:
    """Put days and an empty default partition in for the full one; returns how many events were copied in all."""
    connection.execute(_CREATE_DEFAULT)
    lasts = [replace(each) for each in copies]
    for day, last in zip(days, lasts, strict=True):
        connection.execute("SELECT copy_event_policies(%s::text::regclass)", [_next(day)])
        while last.copy_slice(connection, pace.batch_rows) >= pace.batch_rows:
            pass
    (now,) = connection.execute("SELECT clock_timestamp()").fetchone() or (_EVER[0],)
    connection.execute(_LOCK)
    for last in lasts:
        last.copy_the_last(connection, now)
    connection.execute(_CHANGE_DEFAULT)
    for day in days:
        attach = _ATTACH_DAY.format(next=sql.Identifier(_next(day)), table=day.table, bounds=day.bounds)
        connection.execute(attach)
    connection.execute(_ATTACH_DEFAULT)
    return sum(last.copied for last in lasts)


def _go_through_former(connection: Connection, pace: _Pace) -> Done:
    """Copy what came too late for the copies, and drop the former default partition when nothing is left in it.

    Should a day have been dropped in between, for its age, it comes back with this and is dropped again.
    """
    if not _is_there(connection, "events_default_former"):
        return Done(0)
    first, last = _EVER
    copying = _Copying(_FORMER_DEFAULT, sql.Identifier("events"), begin=first, end=last, after=_Place(first, _LOWEST))
    if not _copy(connection, copying, pace):
        return Done(copying.copied, has_more=True)
    connection.execute(sql.SQL("DROP TABLE {}").format(_FORMER_DEFAULT))
    if copying.copied:
        _log.info("stranded_events_came_late", rows=copying.copied)
    return Done(copying.copied)


def _is_there(connection: Connection, table: str) -> bool:
    return connection.execute("SELECT to_regclass(%s) IS NOT NULL", [table]).fetchone() == (True,)
