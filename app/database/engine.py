"""Owns the engine and transaction(): the only place that commits. Knows no table.

Every wait for PostgreSQL is bounded: the client keeps each transaction's deadline itself, so that a frozen server or a
dead network delays a request no longer than a stopped server does.
"""

import copy
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from enum import Enum
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, cast

import psycopg
from psycopg.errors import ReadOnlySqlTransaction
from sqlalchemy import Connection, Engine, TextClause, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import ConnectionPoolEntry

from app.concurrency.fork import reset_after_fork
from app.concurrency.limit import ConcurrencyLimit
from app.database.citus.cluster import Cluster
from app.database.conninfo import conninfo_of
from app.database.dedicated_connection import DeadlineConnection, DedicatedConnection, has_hung_up
from app.errors import OutcomeUnknown, StorageUnavailable
from app.telemetry import metrics

Answer = TypeVar("Answer")

# The lowest value that psycopg accepts; a refused connection fails at once in any case.
_CONNECT_TIMEOUT_SECONDS = 2
# Set on every connection, so that no default of the server, the database or the role decides. READ COMMITTED: a
# statement behind a lock must see what was committed while it waited (docs/decisions/0003). UTC: a moment at the end of
# the year 9999 cannot be read in a zone in which it is the year 10000. The timeouts end an abandoned statement or
# transaction on PostgreSQL's side too, and release its locks. synchronous_commit: "stored" means flushed, also if the
# rest of the database was configured for speed.
_SESSION = {
    "synchronous_commit": "on",
    "datestyle": "ISO",
    "default_transaction_isolation": r"read\ committed",
    "timezone": "UTC",
    "statement_timeout": "30s",
    "idle_in_transaction_session_timeout": "10s",
    # An idle connection may hold a task's lock (app/database/advisory_locks.py) for as long as the task takes.
    "idle_session_timeout": "0",
    # PostgreSQL notices within a minute that a client's machine has vanished, and releases its locks; Linux's defaults
    # would take two hours. Unix sockets notice at once.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
    # A transaction that names no workspace sees no rows.
    "lariba.workspace": "",
    "lariba.all_workspaces": "",
}
# What the row security policies read (migrations/versions/a005_row_security.py). `true` means until the transaction
# ends, so a pooled connection carries nothing over.
_SCOPE = text(
    "SELECT set_config('lariba.workspace', :workspace, true),"
    " set_config('lariba.all_workspaces', :all_workspaces, true)"
)
# In one exchange: a transaction that reads one row has few others.
_READS = "set_config('transaction_read_only', 'on', true), set_config('statement_timeout', :milliseconds, true)"
# A plan that is made once for all values of a prepared statement would lock every day of events.
_PLANS = "set_config('plan_cache_mode', 'force_custom_plan', true)"
_SCOPE_TO_READ = text(f"{_SCOPE.text}, {_READS}, {_PLANS}")
_DEADLINE_SECONDS = 10.0
_ROLLBACK_SECONDS = 0.2
_ROLLBACK_SECONDS_MAX = 1.5


class TenantScope(Enum):
    """What a transaction sees that belongs to no single workspace."""

    ALL = "all"
    """All workspaces: for the worker, the operator's shell, and the look-up of a credential."""
    NONE = "none"
    """No row of any workspace."""


class Database:
    """One process's pool of connections to PostgreSQL."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        lock_timeout_seconds: float = 1.0,
        application_name: str = "lariba",
        prepares: bool = True,
        session: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """`prepares`: whether PostgreSQL keeps the plans of repeated statements; `session`: further settings of it."""
        settings = _SESSION | {"lock_timeout": f"{int(lock_timeout_seconds * 1000)}ms"} | dict(session)
        arguments = conninfo_of(url) | {
            "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
            "application_name": application_name,
        }
        if not prepares:
            arguments["prepare_threshold"] = None
        options = " ".join(f"-c {name}={value}" for name, value in settings.items())
        arguments["options"] = f"{arguments.get('options', '')} {options}".strip()
        self._arguments = arguments
        self._engine = create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_size=pool_size,
            max_overflow=0,
            # PostgreSQL has planned and cached the statements of the connection that was used last.
            pool_use_lifo=True,
            pool_timeout=1.0,
            # Parameters hold payloads and hashes, which must not get into the log with an error message.
            hide_parameters=True,
        )
        event.listen(self._engine, "checkout", _refuse_if_hung_up)
        _count_use(self._engine, application_name, pool_size)
        self._cluster = Cluster()
        self._program = application_name
        self._limit: ConcurrencyLimit | None = None
        self._client: Hashable = None
        # A forked child (gunicorn, Celery) must not speak on its parent's connections, nor close them. The owner is the
        # engine, because share() makes more than one Database of it.
        reset_after_fork(self._engine, partial(Engine.dispose, close=False))

    @property
    def engine(self) -> Engine:
        """For the entry points, which check the schema before they serve."""
        return self._engine

    def share(self, limit: ConcurrencyLimit, client: Hashable = None) -> "Database":
        """The same pool; `limit` bounds its transactions at once of `client`, or of each scope."""
        other = copy.copy(self)
        other._limit, other._client = limit, client  # noqa: SLF001 - it is our own
        return other

    def dedicated_connection(self) -> "DedicatedConnection":
        """A further connection, beside the pool, for one thread that sends statements all the time."""
        return DedicatedConnection(self._arguments, self._cluster)

    @contextmanager
    def transaction(
        self,
        scope: int | TenantScope,
        *,
        deadline_seconds: float = _DEADLINE_SECONDS,
        reads_for_seconds: float | None = None,
    ) -> Iterator[Session]:
        """One use case, one transaction: commits at the end of the block, rolls back if anything is raised in it.

        It sees the rows of the workspace (its inner id) that `scope` names, and no others. With `reads_for_seconds` it
        cannot write, and no statement may take longer. Raises StorageUnavailable if PostgreSQL is away, too slow or too
        busy (nothing is stored), and its subclass OutcomeUnknown if the connection was lost during the commit itself.
        """
        with self._limit.held(scope if self._client is None else self._client) if self._limit else nullcontext():
            yield from self._transaction(scope, deadline_seconds, reads_for_seconds)

    def _transaction(
        self, scope: int | TenantScope, deadline_seconds: float, reads_for_seconds: float | None
    ) -> Iterator[Session]:
        deadline = time.monotonic() + deadline_seconds
        session = Session(self._engine, expire_on_commit=False)
        connection: Connection | None = None
        try:
            connection = _connected(session)
            _set_deadline(connection, deadline)
            if scope is not TenantScope.NONE:
                session.execute(*_settings_of(scope, reads_for_seconds))
            yield session
            session.flush()
        except BaseException as error:
            lost = _roll_back(session, connection, deadline)
            if isinstance(error, PoolTimeoutError):
                metrics.POOL_TIMEOUTS.labels(self._program).inc()
            if (refusal := unavailable(error)) is not None:
                raise refusal from error
            if lost is not None and isinstance(error, Exception) and not isinstance(error, StorageUnavailable):
                # The connection is lost, so nothing was written; a repetition raises the error itself.
                raise StorageUnavailable from lost
            raise
        try:
            session.commit()
        except (DBAPIError, psycopg.Error) as error:
            # An error that the server reports is a rollback. A lost connection is not: it may have committed; and a
            # node of a cluster may be reporting that it lost another one.
            is_said = isinstance(error, DBAPIError) and not error.connection_invalidated and not self._cluster.is_citus
            raise (StorageUnavailable if is_said else OutcomeUnknown) from error
        finally:
            _roll_back(session, connection, deadline)

    def _connect(self) -> DeadlineConnection:
        connection = DeadlineConnection.connect(**self._arguments)
        # SQLAlchemy sends the first connection a few queries before a transaction can set its deadline.
        connection.deadline = time.monotonic() + _CONNECT_TIMEOUT_SECONDS
        self._cluster.join(connection, is_single=False)
        connection.commit()
        return connection


def _connected(session: Session) -> Connection:
    try:
        return session.connection()
    except InvalidRequestError as error:
        # SQLAlchemy raises it also for a server that hangs up on new connections.
        raise StorageUnavailable from error


def _roll_back(session: Session, connection: Connection | None, deadline: float) -> Exception | None:
    """End the session and, if it is open, its transaction; returns the error, if that fails.

    After an error the connection is closed: PostgreSQL rolls back a transaction whose connection ends before COMMIT.
    """
    # A server that is slow for a moment makes no 503 of a refusal, and one that is silent delays it no longer than
    # requests may wait. What failed by its deadline has a little more, or this would fail by it too.
    now = time.monotonic()
    _set_deadline(connection, max(min(deadline, now + _ROLLBACK_SECONDS_MAX), now + _ROLLBACK_SECONDS))
    try:
        session.close()
    except (SQLAlchemyError, psycopg.Error) as error:
        if connection is not None and not connection.closed:
            connection.invalidate()
            connection.close()
        return error
    return None


def _settings_of(scope: int | TenantScope, reads_for_seconds: float | None) -> tuple[TextClause, dict[str, str]]:
    is_all = scope is TenantScope.ALL
    settings = {"workspace": "" if is_all else str(scope), "all_workspaces": "on" if is_all else ""}
    if reads_for_seconds is None:
        return _SCOPE, settings
    return _SCOPE_TO_READ, settings | {"milliseconds": str(round(reads_for_seconds * 1000))}


def unavailable(error: BaseException) -> StorageUnavailable | None:
    """StorageUnavailable if `error` means that PostgreSQL is away, too slow or too busy."""
    said = error.orig if isinstance(error, DBAPIError) else error
    is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
    is_away = isinstance(said, psycopg.OperationalError | psycopg.InterfaceError | PoolTimeoutError)
    # A standby, or a database that its provider made read-only because its disk is full: it will take writes again.
    return StorageUnavailable() if is_lost or is_away or isinstance(said, ReadOnlySqlTransaction) else None


def _set_deadline(connection: Connection | None, deadline: float) -> None:
    if connection is None or connection.closed or connection.invalidated:
        return
    raw: object = connection.connection.dbapi_connection
    if isinstance(raw, DeadlineConnection):
        raw.deadline = deadline


def ask(engine: Engine, question: Callable[[Connection], Answer]) -> Answer | None:
    """The answer of `question`, before the process serves; None if the database is away. Disposes of the engine."""
    try:
        with engine.connect() as connection:
            return question(connection)
    except SQLAlchemyError as error:
        if unavailable(error) is None:
            raise
        return None
    finally:
        engine.dispose()


def _count_use(engine: Engine, program: str, pool_size: int) -> None:
    """Keep the pool's gauges."""
    in_use, most = metrics.POOL_IN_USE.labels(program), metrics.POOL_MAX.labels(program)

    def out(_connection: object, entry: ConnectionPoolEntry, _proxy: object) -> None:
        _marks_of(entry)["is_out"] = True
        in_use.inc()

    def back(_connection: object, entry: ConnectionPoolEntry) -> None:
        # A connection that had hung up is checked in without having been checked out.
        if _marks_of(entry).pop("is_out", False):
            in_use.dec()

    event.listen(engine, "checkout", out)
    event.listen(engine, "checkin", back)
    event.listen(engine, "connect", lambda *_: most.set(pool_size))
    event.listen(engine, "engine_disposed", lambda _: most.set(0))


def _marks_of(entry: ConnectionPoolEntry) -> dict[str, bool]:
    """Notes on an entry of the pool, which outlive its connections."""
    return cast("dict[str, bool]", entry.record_info)


def _refuse_if_hung_up(connection: psycopg.Connection[Any], _entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Raise DisconnectionError if the server hung up while the connection lay in the pool.

    A server that stops closes each idle connection, which makes its socket readable: a poll costs a microsecond
    (bench/prices.py). A query (SQLAlchemy's pre-ping) would cost a round trip for each event; no check, a 503 after a
    restart.
    """
    if connection.closed or has_hung_up(connection):
        raise DisconnectionError
