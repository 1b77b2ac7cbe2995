"""Owns the engine and transaction(): the only place that commits. Knows no table.

No wait for PostgreSQL is without an end: each transaction has a deadline that the client keeps by itself, so that a
frozen server or a dead network delays a request no longer than a stopped server does.
"""

import copy
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import partial
from typing import Any, cast

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.concurrency.fork import reset_after_fork
from app.concurrency.limit import ConcurrencyLimit
from app.database.dedicated_connection import DeadlineConnection, DedicatedConnection, has_hung_up
from app.errors import OutcomeUnknown, StorageUnavailable
from app.telemetry import metrics

# The lowest that psycopg takes; a refused connection fails at once whatever this says.
_CONNECT_TIMEOUT_SECONDS = 2
# What the product relies on, whatever the server, the database or the role says. READ COMMITTED: a statement behind a
# lock must see what was committed while it waited (docs/decisions/0003). UTC: a moment at the end of the year 9999
# cannot be read in a zone in which it is the year 10000. And PostgreSQL gives up on its side too, so that an abandoned
# statement or transaction never holds its locks for long. synchronous_commit: "stored" means flushed, also where
# somebody has chosen speed for the rest of the database.
_SESSION = {
    "synchronous_commit": "on",
    "datestyle": "ISO",
    "default_transaction_isolation": r"read\ committed",
    "timezone": "UTC",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
    # An idle connection may hold a task's turn (app/database/advisory_locks.py) for as long as the task takes.
    "idle_session_timeout": "0",
    # PostgreSQL notices within a minute that a machine has gone without a word, and frees what it held; by Linux's own
    # measure it would take two hours. Unix sockets know it at once.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # Whoever names no workspace sees none.
    "lariba.workspace": "",
    "lariba.everywhere": "",
}
# The second wall between workspaces (migrations/versions/0006_rights.py): true means until the transaction ends, so a
# pooled connection carries nothing over.
_SCOPE = text(
    "SELECT set_config('lariba.workspace', :workspace, true), set_config('lariba.everywhere', :everywhere, true)"
)
_DEADLINE_SECONDS = 10.0
_ROLLBACK_SECONDS = 0.2


class TenantScope(Enum):
    """How far a transaction sees that belongs to no single workspace."""

    ALL = "all"
    """All workspaces: for the worker, the operator's shell, and whoever finds out whose credential it is."""
    NONE = "none"
    """No row of any workspace."""


class Database:
    """One process's way to PostgreSQL."""

    def __init__(
        self, url: str, *, pool_size: int, lock_timeout_seconds: float = 1.0, application_name: str = "lariba"
    ) -> None:
        session = _SESSION | {"lock_timeout": f"{int(lock_timeout_seconds * 1000)}ms"}
        arguments = conninfo_of(url) | {
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "application_name": application_name,
        }
        options = " ".join(f"-c {name}={value}" for name, value in session.items())
        arguments["options"] = f"{arguments.get('options', '')} {options}".strip()
        self._arguments = arguments
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=pool_size,
            max_overflow=0,
            # The connection used last is the one whose statements PostgreSQL has planned and cached.
            pool_use_lifo=True,
            pool_timeout=1.0,
            # Parameters hold payloads and hashes; an error message must not carry them to the log.
            hide_parameters=True,
        )
        event.listen(self._engine, "checkout", _refuse_if_hung_up)
        _count_use(self._engine, application_name, pool_size)
        self._program = application_name
        self._limit: ConcurrencyLimit | None = None
        self._client: Hashable = None
        # A forked child (gunicorn, Celery) must not speak on its parent's connections, nor close them. The owner is the
        # engine, because share() makes more than one Database of it.
        reset_after_fork(self._engine, partial(Engine.dispose, close=False))

    @property
    def engine(self) -> Engine:
        """For the entry points, which look at the schema before they serve."""
        return self._engine

    def share(self, limit: ConcurrencyLimit, client: Hashable = None) -> "Database":
        """The same database and pool, of which no more is used than `limit` lets through of `client`, or of a scope."""
        other = copy.copy(self)
        other._limit, other._client = limit, client  # noqa: SLF001 - it is our own
        return other

    def dedicated_connection(self) -> "DedicatedConnection":
        """A further connection, beside the pool, for one thread that has statements all the time."""
        return DedicatedConnection(self._arguments)

    @contextmanager
    def transaction(
        self, scope: int | TenantScope, *, deadline_seconds: float = _DEADLINE_SECONDS
    ) -> Iterator[Session]:
        """One use case, one transaction: commits at the end of the block, rolls back if anything is raised in it.

        It sees the rows of the workspace (its inner id) that `scope` names, and no others.
        Raises StorageUnavailable if PostgreSQL is away, too slow or too busy (nothing is stored), and its subclass
        OutcomeUnknown if the connection was lost during the commit itself.
        """
        with self._limit.held(scope if self._client is None else self._client) if self._limit else nullcontext():
            yield from self._transaction(scope, deadline_seconds)

    def _transaction(self, scope: int | TenantScope, deadline_seconds: float) -> Iterator[Session]:
        deadline = time.monotonic() + deadline_seconds
        session = Session(self._engine, expire_on_commit=False)
        connection: Connection | None = None
        try:
            connection = _connected(session)
            _set_deadline(connection, deadline)
            if scope is not TenantScope.NONE:
                session.execute(_SCOPE, _settings_of(scope))
            yield session
            session.flush()
        except BaseException as error:
            lost = _roll_back(session, connection)
            if isinstance(error, PoolTimeoutError):
                metrics.POOL_TIMEOUTS.labels(self._program).inc()
            if (refusal := unavailable(error)) is not None:
                raise refusal from error
            if lost is not None and isinstance(error, Exception) and not isinstance(error, StorageUnavailable):
                # Whatever was to be said: nothing was written, and a repetition hears it.
                raise StorageUnavailable from lost
            raise
        try:
            session.commit()
        except (DBAPIError, psycopg.Error) as error:
            # Anything that the server itself said is a rollback. Silence is not: it may have committed.
            is_said = isinstance(error, DBAPIError) and not error.connection_invalidated
            raise (StorageUnavailable if is_said else OutcomeUnknown) from error
        finally:
            _roll_back(session, connection)

    def _connect(self) -> DeadlineConnection:
        connection = DeadlineConnection.connect(**self._arguments)
        # SQLAlchemy asks the first connection a few things before anybody else can give it a deadline.
        connection.deadline = time.monotonic() + _CONNECT_TIMEOUT_SECONDS
        return connection


def _connected(session: Session) -> Connection:
    try:
        return session.connection()
    except InvalidRequestError as error:
        # SQLAlchemy's word for a server that hangs up on new connections, too.
        raise StorageUnavailable from error


def _roll_back(session: Session, connection: Connection | None) -> Exception | None:
    """End the session and, if it is open, its transaction; what went wrong on the way.

    Then the connection is given up, whatever it was: PostgreSQL rolls back what it hears no commit of.
    """
    # A moment of its own, or it would fail for the deadline just missed.
    _set_deadline(connection, time.monotonic() + _ROLLBACK_SECONDS)
    try:
        session.close()
    except (SQLAlchemyError, psycopg.Error) as error:
        if connection is not None and not connection.closed:
            connection.invalidate()
            connection.close()
        return error
    return None


def _settings_of(scope: int | TenantScope) -> dict[str, str]:
    if scope is TenantScope.ALL:
        return {"workspace": "", "everywhere": "on"}
    return {"workspace": str(scope), "everywhere": ""}


def conninfo_of(url: str) -> dict[str, Any]:
    """Libpq's keywords for a database URL (`postgresql://…`, as SQLAlchemy reads it)."""
    parsed = make_url(url)
    keywords: dict[str, Any] = dict(parsed.query)
    named = {
        "host": parsed.host,
        "port": parsed.port,
        "user": parsed.username,
        "password": parsed.password,
        "dbname": parsed.database,
    }
    return keywords | {name: value for name, value in named.items() if value is not None}


def unavailable(error: BaseException) -> StorageUnavailable | None:
    """StorageUnavailable if `error` says that PostgreSQL is away, too slow or too busy."""
    said = error.orig if isinstance(error, DBAPIError) else error
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    is_away = isinstance(said, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeoutError)
    # What a standby says, or a database whose provider has found its disk full: it will be written to again.
    return StorageUnavailable() if is_lost or is_away or isinstance(said, ReadOnlySqlTransaction) else None


def _set_deadline(connection: Connection | None, deadline: float) -> None:
    if connection is None or connection.closed or connection.invalidated:
        return
    raw: object = connection.connection.dbapi_connection
    if isinstance(raw, DeadlineConnection):
        raw.deadline = deadline


def _count_use(engine: Engine, program: str, pool_size: int) -> None:
    """Let the gauges of the pool follow what happens to its connections."""
    in_use, most = metrics.POOL_IN_USE.labels(program), metrics.POOL_MAX.labels(program)

    def out(_connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        _marks_of(entry)["is_out"] = True
        in_use.inc()

    def back(_connection: object, entry: ConnectionPoolEntry) -> None:
        # One that had hung up comes back without having gone out.
        if _marks_of(entry).pop("is_out", False):
            in_use.dec()

    event.listen(engine, "checkout", out)
    event.listen(engine, "checkin", back)
    event.listen(engine, "connect", lambda *_: most.set(pool_size))
    event.listen(engine, "engine_disposed", lambda _: most.set(0))


def _marks_of(entry: ConnectionPoolEntry) -> dict[str, bool]:
    """What may be noted of a place in the pool, whichever connections it holds one after the other."""
    return cast("dict[str, bool]", entry.record_info)


def _refuse_if_hung_up(connection: psycopg.Connection[Any], _entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Find out for a microsecond (bench/prices.py) whether the server hung up while the connection lay in the pool.

    A server that stops says so on each idle connection, which makes its socket readable. Asking it with a query
    (SQLAlchemy's pre-ping) would cost a round trip on the ingest road; not asking would cost a 503 after a restart.
    """
    if connection.closed or has_hung_up(connection):
        raise DisconnectionError
