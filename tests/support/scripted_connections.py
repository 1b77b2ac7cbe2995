"""A committer whose exchanges with PostgreSQL go as a test says."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from psycopg.errors import LockNotAvailable

from app.context import Context
from app.credentials.verification import Identity
from app.database.dedicated_connection import DedicatedConnection
from app.database.engine import Database
from app.identifiers import uuid7
from app.ingest.committer import Committer
from app.ingest.envelope import Attempt, read_envelope
from app.wire.exact_json import read_object
from tests.support.people import Tenant

Run = Callable[[], list[Any]]
Script = Callable[[Run], list[Any]]
"""Called instead of each exchange with what would carry it out."""


class Exchange:
    """One statement on its way."""

    def __init__(self, parameters: Sequence[Any], deadline: float) -> None:
        self.deadline = deadline
        self.thread = threading.current_thread().name
        self.is_group = len(parameters) == 6
        self.lock_wait_seconds = int(parameters[4].removesuffix("ms")) / 1000 if self.is_group else 0.0
        self.has_waited = False
        """Whether it was given up for a lock."""


class ScriptedConnections:
    """Stands between a committer and PostgreSQL; notes each exchange."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.script: Script = lambda run: run()
        self.exchanges: list[Exchange] = []
        self.open = threading.Event()
        self.open.set()

    @property
    def groups(self) -> int:
        """How many there were until now, each time that one was tried."""
        return sum(exchange.is_group for exchange in self.exchanges)

    def dedicated_connection(self) -> "_ScriptedConnection":
        return _ScriptedConnection(self, self._database.dedicated_connection())


class _ScriptedConnection:
    def __init__(self, connections: ScriptedConnections, connection: DedicatedConnection) -> None:
        self._connections = connections
        self._connection = connection

    def run(self, statement: str, parameters: Sequence[Any], deadline: float) -> list[Any]:
        exchange = Exchange(parameters, deadline)
        self._connections.exchanges.append(exchange)
        self._connections.open.wait()
        if not exchange.is_group:
            return self._connection.run(statement, parameters, deadline)
        try:
            return self._connections.script(lambda: self._connection.run(statement, parameters, deadline))
        except LockNotAvailable:
            exchange.has_waited = True
            raise


def new_committer(
    context: Context,
    connections: ScriptedConnections,
    *,
    every_tick: Callable[[], None] = lambda: None,
    **settings: Any,
) -> Committer:
    return Committer(cast("Database", connections), replace(context.settings, **settings), every_tick)


def identity_of(tenant: Tenant) -> Identity:
    return Identity(tenant.key_id, tenant.key_row, tenant.workspace_row)


def attempt_of(
    tenant: Tenant,
    *,
    event_id: str | None = None,
    key: str | None = None,
    source_id: str | None = None,
    payload: str = "{}",
) -> Attempt:
    named = f'"event_id": "{event_id}", ' if event_id else ""
    body = f'{{{named}"event_type": "a", "source_id": "{source_id or tenant.source_id}", "payload": {payload}}}'
    return Attempt(envelope=read_envelope(read_object(body.encode())), idempotency_key=key, event_uid=uuid7())
