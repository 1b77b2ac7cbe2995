"""Fills the tables with events of the past, on the server itself: what a busy installation has after some weeks."""

import shutil
from collections.abc import Callable
from pathlib import Path

import psycopg
from psycopg import sql

from bench.rows import PAYLOAD, RECEIPT, Owner, read_owner, read_tables

_CHUNK = 500_000
_DAYS = 10
# 1,160 were measured, indexes included; the write-ahead log and what the runs add come on top.
_BYTES_PER_EVENT = 1_500

# Ids of real clients are random. Each statement below sorts by them, so that one chunk walks through an index once.
_EXPRESSIONS = {
    "event_uid": "uid",
    "usage_uid": "uid",
    "event_id": "'evt_' || md5(uid::text)",
    "idempotency_key": "md5(uid::text)",
    "fingerprint": "sha256(uuid_send(uid))",
    "payload": f"'{PAYLOAD}'",
    "event_type": "'order.created'",
    "severity": "'info'",
    "received_at": "at",
    "occurred_at": "at",
    "response_status": "201",
    "response_body": f"'{RECEIPT}'",
    "created_at": "now()",
    "expires_at": "now() + interval '24 hours'",
}
_ORDER = {
    "events": "project_id, received_at, event_uid",
    "event_ledger": "project_id, source_id, event_id",
    "idempotency_records": "project_id, source_id, idempotency_key",
}


_EXPIRED = """
    INSERT INTO idempotency_records
    SELECT 0, n %% 500, 0, md5(n::text), sha256(n::text::bytea), gen_random_uuid(), 201, %s, now() - interval '2 days',
        now() - interval '1 day' + n * interval '1 millisecond'
    FROM generate_series(1, %s) AS n"""


class NoDiskSpaceError(Exception):
    """The disk would not hold it; the message says what is missing."""


def fill(database_url: str, folder: Path, source_id: str, events: int, progress: Callable[[int], None]) -> None:
    """Store `events` events of one source, evenly over the last days, each with its ledger row and its record."""
    _check_disk_space(folder, events)
    with psycopg.connect(database_url, autocommit=True) as connection:
        owner = read_owner(connection, source_id)
        connection.execute("SELECT make_event_partitions((now() AT TIME ZONE 'UTC')::date - %s, %s)", [_DAYS, _DAYS])
        query = _query(connection, owner)
        for done in range(0, events, _CHUNK):
            chunk = min(_CHUNK, events - done)
            # The oldest first, as it would have come.
            connection.execute(query, {"chunk": chunk, "done": done, "events": events, "days": _DAYS})
            progress(done + chunk)
        for table in _ORDER:
            connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(sql.Identifier(table)))


def fill_expired(database_url: str, records: int) -> None:
    """Leave `records` expired idempotency records without a source to the purge."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(_EXPIRED, [RECEIPT, records])


def _check_disk_space(folder: Path, events: int) -> None:
    free, needed = shutil.disk_usage(folder).free, events * _BYTES_PER_EVENT
    if free < needed:
        raise NoDiskSpaceError(
            f"{needed / 2**30:.0f} GiB of disk are needed, {free / 2**30:.0f} are free: see --folder"
        )


def _query(connection: "psycopg.Connection[tuple[object, ...]]", owner: Owner) -> sql.Composed:
    fresh = sql.SQL("""
        WITH fresh AS MATERIALIZED (
            SELECT gen_random_uuid() AS uid,
                now() - make_interval(secs => 86400.0 * %(days)s * (1 - (n + %(done)s)::float8 / %(events)s)) AS at
            FROM generate_series(1, %(chunk)s) AS n
        )""")
    inserts = []
    for table in read_tables(connection):
        if table.name not in _ORDER:
            continue
        expressions = [_EXPRESSIONS.get(column.name) or str(getattr(owner, column.name)) for column in table.columns]
        inserts.append(
            sql.SQL("{} AS (INSERT INTO {} ({}) SELECT {} FROM fresh ORDER BY {})").format(
                sql.Identifier(f"into_{table.name}"),
                sql.Identifier(table.name),
                sql.SQL(", ").join(sql.Identifier(column.name) for column in table.columns),
                sql.SQL(", ").join(
                    sql.SQL("{} AS {}").format(sql.SQL(text), sql.Identifier(column.name))
                    for column, text in zip(table.columns, expressions, strict=True)
                ),
                sql.SQL(_ORDER[table.name]),
            )
        )
    return sql.SQL("{}, {} SELECT count(*) FROM fresh").format(fresh, sql.SQL(", ").join(inserts))
