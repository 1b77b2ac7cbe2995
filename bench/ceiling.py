"""The database's own ceiling: psycopg alone writes the rows of an event, with nothing around it that decides."""

import contextlib
import multiprocessing
import time
from dataclasses import dataclass
from itertools import chain
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from queue import Empty
from typing import Any

import psycopg
from psycopg import sql

from bench.results import CannotRunError
from bench.rows import Rows, Table, make_rows, read_owner, read_tables

# As many clients as the product has web processes.
PROCESSES = 2
# Rows are made beforehand, so many events' worth at a time; only the writing is timed.
_EVENTS_AHEAD = 20_000
_PATIENCE_SECONDS = 120.0

Connection = psycopg.Connection[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Insert:
    """What to write: by `multi-row` INSERT or by `copy`, and how many events a commit."""

    form: str
    events_per_commit: int


@dataclass(frozen=True, slots=True)
class Written:
    """What one client wrote in rounds that all clients began and ended together."""

    events: int
    seconds: float
    commit_ms: list[float]


@dataclass(frozen=True, slots=True)
class _Together:
    barrier: Barrier
    is_over: Event


def write_rows(database_url: str, source_id: str, insert: Insert, seconds: float) -> list[Written]:
    """Write with PROCESSES clients at once, for `seconds` of writing."""
    context = multiprocessing.get_context("spawn")
    results: Queue[Written] = context.Queue()
    together = _Together(context.Barrier(PROCESSES), context.Event())
    arguments = (database_url, source_id, insert, seconds, together, results)
    clients = [context.Process(target=_client, args=arguments, daemon=True) for _ in range(PROCESSES)]
    for client in clients:
        client.start()
    try:
        return [_result_of(clients, results, time.monotonic() + seconds * 5 + _PATIENCE_SECONDS) for _ in clients]
    finally:
        for client in clients:
            client.join(5)
            client.kill()
            client.join()


def _result_of(clients: list[SpawnProcess], results: "Queue[Written]", deadline: float) -> Written:
    while time.monotonic() < deadline:
        with contextlib.suppress(Empty):
            return results.get(timeout=1)
        if any(client.exitcode for client in clients):
            break
    raise CannotRunError("a psycopg client ended without a result")


def _client(
    database_url: str, source_id: str, insert: Insert, seconds: float, together: _Together, results: "Queue[Written]"
) -> None:
    events, taken = 0, 0.0
    commit_ms: list[float] = []
    with psycopg.connect(database_url) as connection:
        tables, owner = read_tables(connection), read_owner(connection, source_id)
        # It sends $1, $2 … as they stand; psycopg's own placeholders would be looked for in each long statement.
        connection.cursor_factory = psycopg.RawCursor
        connection.commit()
        _write(connection, insert, tables, make_rows(tables, owner, insert.events_per_commit))
        while not together.is_over.is_set():
            commits = _EVENTS_AHEAD // insert.events_per_commit
            ahead = [make_rows(tables, owner, insert.events_per_commit) for _ in range(commits)]
            together.barrier.wait(_PATIENCE_SECONDS)
            begin = time.perf_counter()
            commit_ms += [_write(connection, insert, tables, rows) for rows in ahead]
            if taken + time.perf_counter() - begin >= seconds:
                together.is_over.set()
            together.barrier.wait(_PATIENCE_SECONDS)
            events, taken = events + commits * insert.events_per_commit, taken + time.perf_counter() - begin
    results.put(Written(events, taken, commit_ms))


def _write(connection: Connection, insert: Insert, tables: list[Table], rows: Rows) -> float:
    """One commit; how many milliseconds it took."""
    begin = time.perf_counter()
    if insert.form == "copy":
        _copy(connection, tables, rows)
    else:
        for table in tables:
            values = rows[table.name]
            connection.execute(_values_query(table, len(values)), list(chain.from_iterable(values)), prepare=True)
    connection.commit()
    return (time.perf_counter() - begin) * 1000


_queries: dict[tuple[Table, int], bytes] = {}


def _values_query(table: Table, rows: int) -> bytes:
    if (table, rows) not in _queries:
        width = len(table.columns)
        placeholders = (f"({', '.join(f'${row * width + n}' for n in range(1, width + 1))})" for row in range(rows))
        columns = ", ".join(column.name for column in table.columns)
        _queries[table, rows] = f"INSERT INTO {table.name} ({columns}) VALUES {', '.join(placeholders)}".encode()
    return _queries[table, rows]


def _copy(connection: Connection, tables: list[Table], rows: Rows) -> None:
    with connection.cursor() as cursor:
        for table in tables:
            columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns)
            with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)) as copy:
                for row in rows[table.name]:
                    copy.write_row(row)
