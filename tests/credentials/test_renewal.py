"""Storing what argon2 has renewed: of a digest that is missing, after the request was let in, and never in its way."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, event, text
from sqlalchemy.orm import Session
from structlog.testing import CapturedCall, CapturingLogger

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials import table
from app.credentials.table import CredentialTable, seconds_until
from app.credentials.verification import Credentials, Identity
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable
from app.factory import create_app
from tests.support.databases import SECRET_KEY, close
from tests.support.hashers import CountingHasher
from tests.support.people import Tenant, execute, rows
from tests.support.sending import send

Start = Callable[..., Flask]


@dataclass(frozen=True)
class Kind:
    table: str
    ask: Callable[[FlaskClient, Tenant], int]


_KINDS = [
    Kind("source_keys", lambda client, tenant: send(client, tenant).status_code // 100),
    Kind(
        "management_tokens", lambda client, tenant: client.get("/v1/projects", headers=tenant.bearer).status_code // 100
    ),
]
_EACH_KIND = pytest.mark.parametrize("kind", _KINDS, ids=lambda kind: kind.table)
_TOKENS = _KINDS[1]


@pytest.fixture(name="hasher")
def _hasher() -> CountingHasher:
    """Argon2 of all processes."""
    return CountingHasher()


@pytest.fixture(name="start")
def _start(settings: Settings, hasher: CountingHasher) -> Iterator[Start]:
    """Starts a web process, as far as credentials go: with an empty cache that is not preloaded."""
    with ExitStack() as stack:

        def start(**changed: Any) -> Flask:
            credentials = Credentials((SECRET_KEY,), argon2_runs_max=2, hasher=hasher)
            credentials.preload(lambda: ())
            app = create_app(replace(settings, database_pool_size=4, **changed), credentials=credentials)
            stack.callback(close, _context(app).database)
            return app

        yield start


@pytest.fixture(name="log")
def _log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """What the table says of its work."""
    log = CapturingLogger()
    monkeypatch.setattr(table, "_log", log)
    return log


@_EACH_KIND
def test_it_is_stored_once_over_all_processes(
    start: Start, context: Context, hasher: CountingHasher, alice: Tenant, kind: Kind
) -> None:
    _forget_digest(context, alice, kind)

    assert [kind.ask(start().test_client(), alice) for _ in range(3)] == [2] * 3

    assert hasher.runs == 1
    assert _has_digest(context, alice, kind)


@_EACH_KIND
def test_it_waits_for_no_transaction_that_holds_the_row(
    start: Start, context: Context, hasher: CountingHasher, alice: Tenant, kind: Kind, log: CapturingLogger
) -> None:
    """A revocation holds it while it waits for the workspace's events; the digest is written another time."""
    _forget_digest(context, alice, kind)
    client, later = start().test_client(), start().test_client()

    with context.database.transaction(alice.workspace_row) as session:
        held = text(f"SELECT 1 FROM {kind.table} WHERE workspace_id = :id FOR NO KEY UPDATE")
        session.execute(held, {"id": alice.workspace_row})
        assert kind.ask(client, alice) == 2

    assert log.calls == [], "it would have waited until the lock's timeout"
    assert not _has_digest(context, alice, kind)
    assert kind.ask(later, alice) == 2
    assert _has_digest(context, alice, kind)
    assert hasher.runs == 2


@_EACH_KIND
def test_if_it_cannot_be_stored_the_request_goes_on_and_the_log_says_so(
    start: Start, context: Context, alice: Tenant, kind: Kind, log: CapturingLogger
) -> None:
    _forget_digest(context, alice, kind)
    app = start()

    with _unable_to_renew(app):
        assert kind.ask(app.test_client(), alice) == 2

    public_id = alice.token_id if kind is _TOKENS else alice.key_id
    said = {"credential": public_id, "cause": "OperationalError"}
    assert log.calls == [CapturedCall("warning", ("credential_not_renewed",), said)]
    assert kind.ask(start().test_client(), alice) == 2
    assert _has_digest(context, alice, kind)


def test_a_token_above_its_rate_has_nothing_stored(start: Start, context: Context, alice: Tenant) -> None:
    _forget_digest(context, alice, _TOKENS)
    app = start(management_token_requests_per_second=1)
    limiter = _context(app).management.rate_limiter
    limiter._clock = lambda: 0.0  # noqa: SLF001 - the second in which the test asks is never over
    (row,) = rows(context, "SELECT id FROM management_tokens WHERE public_id = :id", id=alice.token_id)
    limiter.admit(Identity(alice.token_id, row.id, alice.workspace_row))

    answer = app.test_client().get("/v1/projects", headers=alice.bearer)

    assert answer.status_code == 429
    assert not _has_digest(context, alice, _TOKENS)


def test_a_revoked_token_has_nothing_stored(start: Start, context: Context, alice: Tenant) -> None:
    _forget_digest(context, alice, _TOKENS)
    execute(context, "UPDATE management_tokens SET revoked_at = now() WHERE workspace_id = :id", id=alice.workspace_row)

    assert _TOKENS.ask(start().test_client(), alice) == 4
    assert not _has_digest(context, alice, _TOKENS)


def test_looking_a_token_up_and_reading_and_renewing_it_have_one_deadline_together(
    start: Start, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read from what each transaction is allowed, not from a clock: what one has taken, the next has no more."""
    _forget_digest(context, alice, _TOKENS)
    client = start().test_client()
    allowed: list[float] = []
    transaction = Database.transaction

    def watched(
        database: Database, scope: int | TenantScope, *, deadline_seconds: float = 3600.0
    ) -> AbstractContextManager[Session]:
        allowed.append(deadline_seconds)
        return transaction(database, scope, deadline_seconds=deadline_seconds)

    monkeypatch.setattr(Database, "transaction", watched)
    # Its bound of its own is shorter than what is left of the deadline.
    monkeypatch.setattr("app.credentials.table._RENEW_SECONDS_MAX", 3600.0)

    assert _TOKENS.ask(client, alice) == 2

    look_up, read, renew, *_of_the_view = allowed
    assert 1.8 > look_up > read > renew > 0


def test_nothing_is_begun_after_the_deadline() -> None:
    credentials = Credentials((SECRET_KEY,), argon2_runs_max=1, hasher=CountingHasher())
    credential = credentials.parse(credentials.mint("mt").text, "mt")
    assert credential is not None
    no_database: Any = SimpleNamespace(transaction=pytest.fail)

    with pytest.raises(StorageUnavailable):
        CredentialTable("management_tokens").verify(credential, credentials, no_database, time.monotonic())
    with pytest.raises(StorageUnavailable):
        seconds_until(time.monotonic())


@contextmanager
def _unable_to_renew(app: Flask) -> Iterator[None]:
    def fail(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if "secret_digest = " in statement:
            raise psycopg.OperationalError("the connection is lost")

    engine = _context(app).database.engine
    event.listen(engine, "before_cursor_execute", fail)
    yield
    event.remove(engine, "before_cursor_execute", fail)


def _forget_digest(context: Context, tenant: Tenant, kind: Kind) -> None:
    statement = f"UPDATE {kind.table} SET secret_digest = NULL WHERE workspace_id = :id"
    execute(context, statement, id=tenant.workspace_row)


def _has_digest(context: Context, tenant: Tenant, kind: Kind) -> bool:
    statement = f"SELECT secret_digest FROM {kind.table} WHERE workspace_id = :id"
    (row,) = rows(context, statement, id=tenant.workspace_row)
    return row.secret_digest is not None


def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context
