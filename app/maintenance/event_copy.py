"""Copies events from one table into another, in small batches and in order of receipt."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from uuid import UUID

from psycopg import sql

from app.database.owner import Connection
from app.maintenance.unfinished import complete_until

LOWEST_UID: Final = UUID(int=0)
_HIGHEST_UID: Final = UUID(int=(1 << 128) - 1)
BEGIN_OF_TIME: Final = datetime.min.replace(tzinfo=UTC)
END_OF_TIME: Final = datetime.max.replace(tzinfo=UTC)
# Ingest never commits behind the last copied position: batches end before what is not complete. Any other writer of
# events may do so, a moment after one that was received later; what comes even later is found in the former default
# partition. Only what is received right now is looked up again: on a day that is over, millions of events may lie
# within three seconds, and writers wait meanwhile.
_OVERLAP: Final = timedelta(seconds=3)
_RECENT: Final = timedelta(seconds=10)
_MICROSECOND: Final = timedelta(microseconds=1)
# Millions of events may have one received_at, so event_uid takes part in the position.
_BATCH_END: Final = sql.SQL("""
    SELECT n, received_at, event_uid FROM (
        SELECT row_number() OVER (ORDER BY received_at, event_uid) AS n, received_at, event_uid FROM {source}
        WHERE (received_at, event_uid) > (%s, %s) AND received_at < %s
        ORDER BY received_at, event_uid LIMIT %s
    ) AS batch ORDER BY n DESC LIMIT 1
""")
_REST: Final = sql.SQL("""
    SELECT count(*) FROM (
        SELECT FROM {source} WHERE (received_at, event_uid) > (%s, %s) AND received_at < %s
        ORDER BY received_at, event_uid LIMIT %s
    ) AS rest
""")
_COPY: Final = sql.SQL("""
    INSERT INTO {target} SELECT * FROM {source}
    WHERE (received_at, event_uid) > (%s, %s) AND (received_at, event_uid) <= (%s, %s)
    ON CONFLICT DO NOTHING
""")
_LAST_COPIED: Final = sql.SQL("SELECT received_at, event_uid FROM {} ORDER BY received_at DESC, event_uid DESC LIMIT 1")
# PostgreSQL overestimates the rows between two positions, above all if millions have one received_at, and would scan
# the whole table for each batch.
USE_INDEX: Final = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off"


class Position(NamedTuple):
    """Of an event, in order of receipt."""

    received_at: datetime
    event_uid: UUID


@dataclass(slots=True)
class EventCopy:
    """The copying of events from `begin` to `end` between two tables."""

    source: sql.Identifier
    target: sql.Identifier
    begin: datetime
    end: datetime
    after: Position
    """The last copied event."""
    is_source_open: bool = True
    """Whether ingest may still commit events into it."""
    copied: int = 0

    def copy_batch(self, connection: Connection, batch_rows: int) -> int:
        """Copy up to `batch_rows` events; returns how many were read, some of which the target may have had.

        It ends before the first moment of which an event may still commit, or that would be passed over for good.
        """
        end = complete_until(connection, self.begin, self.end) if self.is_source_open else self.end
        limits = [*self.after, end, batch_rows]
        found = connection.execute(_BATCH_END.format(source=self.source), limits).fetchone()
        if found is None:
            return 0
        rows, *until = found
        self._copy(connection, Position(*until))
        return int(rows)

    def rest(self, connection: Connection, rows_max: int) -> int:
        """How many events copy_rest would copy; counting ends at `rows_max`."""
        counted = connection.execute(_REST.format(source=self.source), [*self.after, self.end, rows_max]).fetchone()
        return int(counted[0]) if counted else 0

    def copy_rest(self, connection: Connection, now: datetime) -> None:
        """With writers locked out: copy the rest, and what has committed behind the last position."""
        if self.after.received_at > now - _RECENT:
            self.after = Position(max(self.after.received_at - _OVERLAP, self.begin), LOWEST_UID)
        self._copy(connection, Position(self.end - _MICROSECOND, _HIGHEST_UID))

    def _copy(self, connection: Connection, until: Position) -> None:
        copy = _COPY.format(source=self.source, target=self.target)
        self.copied += connection.execute(copy, [*self.after, *until]).rowcount
        self.after = until


def last_position(connection: Connection, table: sql.Identifier) -> Position | None:
    """Of the last event in a table that is copied into; None if it is empty."""
    last = connection.execute(_LAST_COPIED.format(table)).fetchone()
    return Position(*last) if last else None
