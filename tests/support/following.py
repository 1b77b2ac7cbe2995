"""Stores groups of events in transactions that end when a test says so, and follows a feed as a consumer would."""

import json
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import psycopg

from app.config import Settings
from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.identifiers import uuid7
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import Execute, Outcome, store
from app.wire.exact_json import read_object
from tests.support.database_clock import set_clock
from tests.support.operating import ApiClient
from tests.support.people import Tenant
from tests.support.sending import event_for

FEED = "/v1/events/feed"


class Group:
    """Some events of a tenant, stored and not committed yet."""

    def __init__(
        self, database: Database, tenant: Tenant, *event_ids: str, at: datetime | None = None, **changes: Any
    ) -> None:
        """`at`: what time it is in PostgreSQL, if its clock can be set."""
        self._open = ExitStack()
        session = self._open.enter_context(database.transaction(TenantScope.ALL, deadline_seconds=120))
        if at is not None:
            set_clock(session, at)
        connection = session.connection()
        _store(
            lambda statement, parameters: connection.exec_driver_sql(statement, tuple(parameters)).all(),
            tenant,
            *event_ids,
            **changes,
        )

    def commit(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.commit()


def store_group(database: Database, tenant: Tenant, *event_ids: str, **more: Any) -> None:
    """As one transaction that ends at once."""
    Group(database, tenant, *event_ids, **more).commit()


class Writer:
    """A connection for thousands of groups, each of which begins with store() and ends with commit()."""

    def __init__(self, settings: Settings) -> None:
        # What it has written is visible as soon as ever; it need not outlive the server.
        self._connection = psycopg.connect(settings.database_url, options="-c synchronous_commit=off")
        self.commit = self._connection.commit
        self.close = self._connection.close

    def store(self, tenant: Tenant, *event_ids: str) -> None:
        _store(lambda *statement: self._connection.execute(*statement).fetchall(), tenant, *event_ids)


def _store(execute: Execute, tenant: Tenant, *event_ids: str, **changes: Any) -> None:
    identity = Identity(row_id=tenant.key_row, workspace_id=tenant.workspace_row, public_id=tenant.key_id)
    attempts = [_attempt(event_for(tenant, event_id=event_id, **changes)) for event_id in event_ids]
    verdicts = store(
        execute,
        [(identity, attempt) for attempt in attempts],
        idempotency_ttl_seconds=86_400,
        lock_wait_seconds=5,
    )
    assert {verdict.outcome for verdict in verdicts} == {Outcome.STORED}


def _attempt(event: dict[str, Any]) -> Attempt:
    envelope = read_envelope(read_object(json.dumps(event).encode()))
    return Attempt(envelope=envelope, idempotency_key=None, event_uid=uuid7())


@dataclass
class Consumer:
    """Goes through a feed, and remembers the event ids that it has been shown."""

    api: ApiClient
    project_id: str
    cursor: str = "start"
    seen: list[str] = field(default_factory=list)
    pages: int = 0

    def page(self, **query: Any) -> list[str]:
        """The next page's."""
        response = self.api.get(FEED, project_id=self.project_id, cursor=self.cursor, **query)
        assert response.status_code == 200, response.text
        assert response.json is not None
        self.cursor = response.json["next_cursor"]
        ids = [event["event_id"] for event in response.json["data"]]
        self.seen += ids
        self.pages += 1
        return ids

    def catch_up(self, **query: Any) -> list[str]:
        """All pages up to an empty one."""
        found: list[str] = []
        while ids := self.page(**query):
            found += ids
        return found
