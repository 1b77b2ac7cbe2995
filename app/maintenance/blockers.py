"""Waits for other sessions without blocking ingest, and names the sessions that a task waits for.

A lock that conflicts with ingest is requested in short tries, because every later request queues behind it. Waits for
old transactions hold no lock.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Final, NamedTuple, TypeVar

from psycopg import errors, sql
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database.owner import Connection

Result = TypeVar("Result")

LOCK_WAIT_MILLISECONDS: Final = 50
"""How long one try may block ingest; docs/maintenance.md promises it."""
_TRIES: Final = 10
# Ingest is not blocked for five sixths of the time. The task's next run tries again.
_REST_SECONDS: Final = 0.25
_POLL_SECONDS: Final = 0.1
_NAMED_MAX: Final = 5

# The oldest first: it ends last. PostgreSQL shows a role the age of its own transactions only, and of all transactions
# if it is a member of pg_read_all_stats.
_HOLDERS: Final = """
    SELECT pid, application_name, date_trunc('second', clock_timestamp() - xact_start)
    FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE locktype = 'relation' AND datname = current_database() AND pid <> pg_backend_pid() AND granted
        AND relation IN (SELECT to_regclass(name) FROM unnest({}) AS name)
    GROUP BY pid, application_name, xact_start ORDER BY xact_start NULLS LAST, pid
"""
# Autovacuum (it has no user) never reads rows by an old snapshot.
_OLDER_SNAPSHOTS: Final = """
    SELECT pid, application_name, date_trunc('second', clock_timestamp() - xact_start)
    FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND usesysid IS NOT NULL
        AND age(coalesce(backend_xmin, backend_xid)) >= age(%s::text::xid)
    ORDER BY xact_start NULLS LAST, pid
"""


class Blocker(NamedTuple):
    """A PostgreSQL session that a task waits for."""

    pid: int
    program: str
    age: timedelta | None
    """Of its transaction; None if the owner's role may not see it."""

    def __str__(self) -> str:
        age = "" if self.age is None else f", in a transaction for {self.age}"
        return f"pid {self.pid} ({self.program or 'no application_name'}{age})"


def in_short_tries(connection: Connection, tables: Sequence[str], step: Callable[[], Result]) -> Result:
    """Do `step` in a transaction, or a savepoint of the open one, that waits LOCK_WAIT_MILLISECONDS for each lock.

    Raises LockNotAvailable after _TRIES, naming the sessions that held `tables` through all of them.
    """
    held: list[Blocker] | None = None
    tries = 0
    while True:
        try:
            with connection.transaction():
                connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(LOCK_WAIT_MILLISECONDS))
                return step()
        except errors.LockNotAvailable as error:
            found = _blockers(connection, _HOLDERS.format("%s::text[]"), list(tables))
            held = found if held is None else [each for each in held if each.pid in {now.pid for now in found}]
            tries += 1
            if tries == _TRIES:
                raise errors.LockNotAvailable(f"{', '.join(tables)}: held by {named(held)}") from error
        time.sleep(_REST_SECONDS)


def holders_in(session: Session, tables: Sequence[str]) -> list[Blocker]:
    """The sessions that hold a lock on one of `tables`, as the app's role sees them."""
    statement = text(_HOLDERS.format("CAST(:tables AS text[])"))
    return [Blocker(*row) for row in session.execute(statement, {"tables": list(tables)})]


def current_transaction(connection: Connection) -> str:
    """The xid of a transaction that begins and ends with this call: earlier transactions are older."""
    (transaction,) = connection.execute("SELECT pg_current_xact_id()::xid::text").fetchone() or ("",)
    return str(transaction)


def older_snapshots(connection: Connection, transaction: str) -> list[Blocker]:
    """The sessions that may still read the tables as they were before `transaction` (its xid)."""
    return _blockers(connection, _OLDER_SNAPSHOTS, transaction)


def wait_for_older_snapshots(connection: Connection, seconds: float) -> list[Blocker]:
    """Wait until no session reads the tables as they were before this call; returns those that do after `seconds`."""
    transaction = current_transaction(connection)
    give_up = time.monotonic() + seconds
    while (blockers := older_snapshots(connection, transaction)) and time.monotonic() < give_up:
        time.sleep(_POLL_SECONDS)
    return blockers


def named(blockers: Iterable[Blocker]) -> str:
    """The blockers as text, for a log or an error."""
    names = [str(each) for each in blockers]
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(names[:_NAMED_MAX]) + more if names else "many, each for a moment"


def _blockers(connection: Connection, statement: str, parameter: object) -> list[Blocker]:
    return [Blocker(*row) for row in connection.execute(statement, [parameter]).fetchall()]
