"""The rows of one stored event, for measurements without the product. Columns come from the catalog."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg

from app.identifiers import uuid7

Rows = dict[str, list[list[str]]]

TABLES = ("events", "event_ledger", "idempotency_records", "usage_outbox")

PAYLOAD = (
    '{"order_id":"ord_48151623","customer":"cus_48151623","currency":"EUR","amount":149.97,"items":['
    '{"sku":"sku-1001","quantity":1,"price":49.99},{"sku":"sku-2002","quantity":2,"price":49.99}],'
    '"shipping":{"country":"DE","city":"Berlin"}}'
)
RECEIPT = '{"accepted":true,"event_id":"evt_00000000-0000-4000-8000-000000000000","status":"stored"}'

# What a table that counts requests, not events, has: one row then stands for a whole commit.
_COUNTING_COLUMNS = {"events", "requests", "count"}


@dataclass(frozen=True, slots=True)
class Column:
    """One that an insert has to name."""

    name: str
    type: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the ingest path, as it is today."""

    name: str
    columns: tuple[Column, ...]

    @property
    def is_counting(self) -> bool:
        """Whether one row stands for many events."""
        return self.name.startswith("usage") and bool({column.name for column in self.columns} & _COUNTING_COLUMNS)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose events they are: row ids."""

    workspace_id: int
    project_id: int
    environment_id: int
    source_id: int
    source_key_id: int


def read_tables(connection: psycopg.Connection[Any]) -> list[Table]:
    """The existing tables of the ingest path, with the columns that have no default."""
    query = """
        SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped
            AND NOT atthasdef AND attidentity = '' AND (attnotnull OR attname = ANY(%s)) ORDER BY attnum"""
    known = list(_MAKERS) + list(Owner.__dataclass_fields__)
    found = []
    for name in TABLES:
        columns = tuple(Column(*row) for row in connection.execute(query, [name, known]))
        if columns:
            found.append(Table(name, columns))
    return found


def read_owner(connection: psycopg.Connection[Any], source_id: str) -> Owner:
    """Whose the source is, and its newest key."""
    query = """
        SELECT source.workspace_id, source.project_id, source.environment_id, source.id, max(source_key.id)
        FROM sources AS source JOIN source_keys AS source_key ON source_key.source_id = source.id
        WHERE source.public_id = %s GROUP BY source.id"""
    row = connection.execute(query, [source_id]).fetchone()
    if row is None:
        raise LookupError(source_id)
    return Owner(*row)


def make_rows(tables: list[Table], owner: Owner, events: int) -> Rows:
    """The rows of `events` new events, by table; all values as text, which costs the client least to send."""
    ids = [str(uuid7()) for _ in range(events)]
    rows = {}
    for table in tables:
        makers = [_maker(column, owner) for column in table.columns]
        rows[table.name] = [[make(an_id) for make in makers] for an_id in (ids[:1] if table.is_counting else ids)]
    return rows


Maker = Callable[[str], str]

_MAKERS: dict[str, Maker] = {
    "event_uid": str,
    "usage_uid": str,
    # Scattered, as real clients' ids are: the random end comes first.
    "event_id": lambda an_id: f"evt_{an_id[::-1]}",
    "idempotency_key": lambda an_id: an_id[::-1],
    "fingerprint": lambda _id: f"\\x{os.urandom(32).hex()}",
    "payload": lambda _id: PAYLOAD,
    "payload_bytes": lambda _id: str(len(PAYLOAD)),
    "event_type": lambda _id: "order.created",
    "severity": lambda _id: "info",
    "outcome": lambda _id: "stored",
    "response_status": lambda _id: "201",
    "response_body": lambda _id: RECEIPT,
    "expires_at": lambda _id: "2100-01-01 00:00:00+00",
}
_BY_TYPE: dict[str, Maker] = {
    "uuid": str,
    "text": str,
    "bytea": lambda an_id: f"\\x{an_id.encode().hex()}",
    "jsonb": lambda _id: "{}",
    "boolean": lambda _id: "false",
    "timestamp with time zone": lambda _id: datetime.now(UTC).isoformat(),
}


def _maker(column: Column, owner: Owner) -> Maker:
    if hasattr(owner, column.name):
        value = str(getattr(owner, column.name))
        return lambda _id: value
    return _MAKERS.get(column.name) or _BY_TYPE.get(column.type) or (lambda _id: "1")
