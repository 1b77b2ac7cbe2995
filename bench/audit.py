"""Counts what is stored and holds it against what was answered: no 2xx without a row, no row twice."""

from dataclasses import dataclass

import psycopg

# What one accepted event writes, each with one row. `usage_outbox` is emptied by the worker and cannot be counted.
_TABLES = ("events", "event_ledger", "idempotency_records")
# The worker may be purging others.
_BUT = {"idempotency_records": " WHERE expires_at > now()"}
BACKLOG_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows in the tables of the ingest path."""

    events: int
    event_ledger: int
    idempotency_records: int

    def __sub__(self, other: "Counts") -> "Counts":
        return Counts(
            self.events - other.events,
            self.event_ledger - other.event_ledger,
            self.idempotency_records - other.idempotency_records,
        )


class Auditor:
    """Asks with the owner's rights, on a connection of its own."""

    def __init__(self, database_url: str) -> None:
        self._connection = psycopg.connect(database_url, autocommit=True)

    def count(self) -> Counts:
        return Counts(*(self._number(f"SELECT count(*) FROM {table}{_BUT.get(table, '')}") for table in _TABLES))

    def expired(self) -> int:
        """Records that wait for the purge."""
        return self._number("SELECT count(*) FROM idempotency_records WHERE expires_at <= now()")

    def backlog(self) -> int:
        """Rows in the outbox, as far as that matters."""
        if not self._has_outbox():
            return 0
        return self._number(f"SELECT count(*) FROM (SELECT FROM usage_outbox LIMIT {BACKLOG_MAX + 1}) AS rows_there")

    def forget_usage(self) -> None:
        """Empty the outbox of rows that no request has written."""
        if self._has_outbox():
            self._connection.execute("DELETE FROM usage_outbox")
            self._connection.execute("VACUUM usage_outbox")

    def stored_twice(self) -> int:
        """Events that stand in the table more than once."""
        ids = "SELECT FROM events GROUP BY project_id, source_id, event_id HAVING count(*) > 1"
        return self._number(f"SELECT count(*) FROM ({ids}) AS twice")

    def close(self) -> None:
        self._connection.close()

    def _has_outbox(self) -> bool:
        return self._number("SELECT count(to_regclass('usage_outbox'))") == 1

    def _number(self, query: str) -> int:
        row = self._connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0


@dataclass(frozen=True, slots=True)
class Finding:
    """What the audit of a whole benchmark says."""

    answered: int
    """Events in answers of 2xx that stood for something new."""
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a load must have stored."""

    answered: int
    """Events in answers of 2xx that stand for something new."""
    unanswered_max: int
    """Events that may have been stored without their answer being read: what was in flight when wrk hung up."""
    with_records: bool = True
    """Whether each has an idempotency record."""


def complaints(added: Counts, expected: Expected) -> list[str]:
    """What is wrong; nothing, if all is well."""
    found = []
    if added.events < expected.answered:
        found.append(f"{expected.answered - added.events} of {expected.answered} answered events are not stored")
    if added.events > expected.answered + expected.unanswered_max:
        more = added.events - expected.answered
        found.append(f"{more} more events are stored than answered; at most {expected.unanswered_max} were in flight")
    if added.event_ledger != added.events:
        found.append(f"{added.events} events, but {added.event_ledger} rows in the ledger")
    if expected.with_records and added.idempotency_records != added.events:
        found.append(f"{added.events} events, but {added.idempotency_records} idempotency records")
    return found
