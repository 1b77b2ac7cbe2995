"""What a workspace consists of, table by table, and how its rows are compared and copied.

Row ids are those of the cell that made a row, and no other cell has them, so a row moves as it is.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from typing import Any, Final

import psycopg
from psycopg import sql

Connection = psycopg.Connection[Any]

_COLUMNS: Final = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attname
"""
# Half of an MD5 of each row, added up: whichever order the rows are read in. The settings that change how a value is
# written are the same on every connection of an owner.
_DIGESTS: Final = sql.SQL("""
    SELECT {slice} AS slice, count(*), sum(('x' || left(md5(ROW({columns})::text), 16))::bit(64)::bigint::numeric)
    FROM {table} WHERE {rows} GROUP BY 1
""")
_EVERYTHING: Final = sql.SQL("true")
_WHOLE: Final = sql.SQL("0")


@dataclass(frozen=True, slots=True)
class Scope:
    """The rows of one workspace. By its projects too, with which the keys of the large tables begin."""

    workspace: int
    projects: tuple[int, ...]

    def rows(self, table: str, range_: sql.Composable = _EVERYTHING) -> sql.Composable:
        """The condition that those of a table are."""
        within = sql.SQL("workspace_id = {} AND {}").format(sql.Literal(self.workspace), range_)
        if table not in _BY_PROJECT and not table.startswith("events_"):
            return within
        return sql.SQL("project_id = ANY ({}) AND {}").format(sql.Literal(list(self.projects)), within)


class Origin(Enum):
    """What writes the rows of a table, and so which of them may still change."""

    STORED = auto()
    """Ingest. Before the horizon of feeds nothing comes any more, but records of a batch that began just before it."""
    FOLDED = auto()
    """The worker, of what waits in usage_outbox."""
    NOTED = auto()
    """Web processes and the worker, seconds after the moment that it bears."""
    BUILT = auto()
    """The worker, from what is stored: in the new cell it goes on from what was copied of it."""


@dataclass(frozen=True, slots=True)
class History:
    """A table with rows of every moment."""

    name: str
    moment: str
    """The column that says of which moment a row is."""
    origin: Origin = Origin.STORED
    is_large: bool = False
    """Compared day by day, so that no statement takes for ever; an index finds the rows of a day."""
    ends: str | None = None
    """A column with an index that `moment` has not: the end of what a row is valid for."""
    compared: tuple[str, ...] = ()
    """The columns that tell whether a row is the same; none: all. Of a row that is built once from others, its name."""

    def between(self, begin: datetime | None, end: datetime | None) -> sql.Composable:
        """Its rows of a range; None: without an end there."""
        column = sql.Identifier(self.moment)
        parts: list[sql.Composable] = [_EVERYTHING]
        if begin is not None:
            parts.append(sql.SQL("{} >= {}").format(column, sql.Literal(begin)))
        if end is not None:
            parts.append(sql.SQL("{} < {}").format(column, sql.Literal(end)))
        return sql.SQL(" AND ").join(parts)

    @property
    def slices(self) -> sql.Composable:
        """By the hour: what differs is copied again, and an hour is little."""
        return sql.SQL("date_trunc('hour', {}, 'UTC')").format(sql.Identifier(self.moment))

    def slice(self, begins: datetime, range_: sql.Composable) -> sql.Composable:
        """The rows of one slice that lie in a range."""
        column = sql.Identifier(self.moment)
        hour = sql.SQL("{0} >= {1} AND {0} < {1} + interval '1 hour'").format(column, sql.Literal(begins))
        return sql.SQL("{} AND {}").format(hour, range_)


HISTORIES: Final = (
    History("events", "received_at", is_large=True),
    History("event_ledger", "received_at", is_large=True),
    History("idempotency_records", "created_at", ends="expires_at"),
    History("event_segments", "ends_at", Origin.BUILT, compared=("project_id", "last_position", "events")),
    History("usage_hours", "hour", Origin.FOLDED, is_large=True),
    History("event_hours", "hour", Origin.FOLDED, is_large=True),
    History("read_hours", "hour", Origin.NOTED),
    History("audit_entries", "created_at", Origin.NOTED),
)
"""Copied while the workspace goes on; they refer by a foreign key to the row of the workspace at the most."""
CONTROL: Final = (
    "projects",
    "environments",
    "sources",
    "source_keys",
    "management_tokens",
    "management_requests",
    "consumers",
    "exports",
    "replays",
    "usage_outbox",
)
"""Copied whole, in the transaction that ends the move. Parents first."""
LEFT_BEHIND: Final = ("projects", "environments", "sources", "source_keys", "management_tokens")
"""What stays in the old cell, so that it can say where a key or token is at home."""
_BY_PROJECT: Final = {each.name for each in HISTORIES} - {"read_hours", "audit_entries"} | {"usage_outbox"}

Digests = dict[Any, tuple[int, Any]]
"""By slice: how many rows, and their digest."""


def columns_of(connection: Connection, table: str) -> sql.Composable:
    """The columns of a table, in one order whatever has been done to it."""
    names = [name for (name,) in connection.execute(_COLUMNS, [table]).fetchall()]
    return sql.SQL(", ").join(map(sql.Identifier, names))


def digests(connection: Connection, scope: Scope, history: History, range_: sql.Composable) -> Digests:
    """Of the rows of a history in a range, by slice."""
    compared = sql.SQL(", ").join(map(sql.Identifier, history.compared)) if history.compared else None
    return _digests(connection, scope, history.name, range_, history.slices, compared)


def digest(connection: Connection, scope: Scope, table: str) -> tuple[int, Any]:
    """Of all rows of a table."""
    return _digests(connection, scope, table, _EVERYTHING, _WHOLE, None).get(0, (0, None))


def _digests(
    connection: Connection,
    scope: Scope,
    table: str,
    range_: sql.Composable,
    slices: sql.Composable,
    compared: sql.Composable | None,
) -> Digests:
    query = _DIGESTS.format(
        slice=slices,
        columns=compared or columns_of(connection, table),
        table=sql.Identifier(table),
        rows=scope.rows(table, range_),
    )
    return {slice_: (rows, digest) for slice_, rows, digest in connection.execute(query).fetchall()}


def differing(here: Digests, there: Digests) -> list[Any]:
    """The slices that are not the same on both sides."""
    return sorted(each for each in here.keys() | there.keys() if here.get(each) != there.get(each))


def copy_rows(
    source: Connection, target: Connection, scope: Scope, table: str, range_: sql.Composable = _EVERYTHING
) -> int:
    """Put the rows of a range in the place of those that the target has; returns how many. In its transaction."""
    columns, name, rows = columns_of(source, table), sql.Identifier(table), scope.rows(table, range_)
    target.execute(sql.SQL("DELETE FROM {} WHERE {}").format(name, rows))
    out_of = sql.SQL("COPY (SELECT {} FROM {} WHERE {}) TO STDOUT (FORMAT binary)").format(columns, name, rows)
    into = sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary)").format(name, columns)
    with source.cursor() as reading, target.cursor() as writing:
        with reading.copy(out_of) as out, writing.copy(into) as copy:
            for data in out:
                copy.write(data)
        return writing.rowcount


def delete_rows(connection: Connection, scope: Scope, tables: Iterable[str]) -> None:
    """Delete all rows of a workspace from some tables, in the order given."""
    for table in tables:
        connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), scope.rows(table)))


def delete_some(connection: Connection, scope: Scope, table: str, rows: int) -> int:
    """Delete up to so many rows of a workspace; returns how many."""
    some = sql.SQL("DELETE FROM {0} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {0} WHERE {1} LIMIT {2}))")
    return connection.execute(some.format(sql.Identifier(table), scope.rows(table), sql.Literal(rows))).rowcount
