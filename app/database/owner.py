"""Connections of the tables' owner: for migrations and for partitions, to which the app's role has no right.

Row security does not bind the owner, and it may drop tables. So only `migrate` and the worker get its URL: an attacker
who has taken over a web server can neither delete an event nor drop a partition.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import NullPool

from app.database.conninfo import conninfo_of
from app.errors import StorageUnavailable

Connection = psycopg.Connection[Any]

_APPLICATION_NAME = "lariba-owner"
_CONNECT_TIMEOUT_SECONDS = 2
# Indexes and exports take as long as a day of events takes. Locks do not: ingest queues behind one that is waited for.
_SESSION = {
    "synchronous_commit": "on",
    "datestyle": "ISO",
    "timezone": "UTC",
    "statement_timeout": "0",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "60s",
}
_OWNS = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('events')"
_NOT_THE_OWNER = "the upkeep of partitions takes the tables' owner: the worker needs LARIBA_ADMIN_DATABASE_URL"
# Any number that nothing else locks.
_LOCK = 0x6C617269_62610002
_LOCK_SECONDS_MAX = 60.0
_LOCK_PAUSE_SECONDS = 0.1


class NotTheOwnerError(Exception):
    """The URL is that of a role which does not own the tables; the message says what to set."""


class OwnerBusyError(Exception):
    """Another process has held the lock on the partitions for a minute."""


class Owner:
    """Connects to PostgreSQL as the tables' owner, anew each time: it is rarely wanted."""

    def __init__(self, url: str) -> None:
        self._arguments = conninfo_of(url) | {
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "application_name": _APPLICATION_NAME,
            "options": " ".join(f"-c {name}={value}" for name, value in _SESSION.items()),
        }

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection on which each statement, or each block of `connection.transaction()`, is a transaction.

        Raises StorageUnavailable if PostgreSQL is away, or lost before the block ends, and NotTheOwnerError.
        """
        try:
            connection = psycopg.connect(**self._arguments, autocommit=True)
        except psycopg.OperationalError as error:
            raise StorageUnavailable from error
        with connection:
            try:
                if connection.execute(_OWNS).fetchone() != (True,):
                    raise NotTheOwnerError(_NOT_THE_OWNER)
                yield connection
            except psycopg.Error as error:
                if connection.closed:
                    raise StorageUnavailable from error
                raise

    @contextmanager
    def locked(self) -> Iterator[Connection]:
        """As connection(), for work that makes, moves, indexes or drops partitions: one process at a time.

        The advisory lock belongs to the connection that does the work, so it cannot be lost while the work goes on. It
        is polled: a statement that waits holds a snapshot, for whose end CREATE INDEX CONCURRENTLY would wait.
        Raises OwnerBusyError too.
        """
        give_up = time.monotonic() + _LOCK_SECONDS_MAX
        with self.connection() as connection:
            while connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone() != (True,):
                if time.monotonic() > give_up:
                    raise OwnerBusyError
                time.sleep(_LOCK_PAUSE_SECONDS)
            yield connection


def owner_engine(url: str) -> Engine:
    """An engine without a pool, for migrations."""
    arguments = conninfo_of(url) | {"connect_timeout": _CONNECT_TIMEOUT_SECONDS, "application_name": _APPLICATION_NAME}
    return create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(**arguments), poolclass=NullPool)
