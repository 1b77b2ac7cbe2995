"""A key that is revoked or has expired: what it is answered when something else is wrong with its request too."""

import threading
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import event

from app.context import Context
from app.errors import RateLimitExceeded
from app.ingest.services import EXTENSION as INGEST
from tests.support.people import Tenant, execute
from tests.support.sending import PATH, error_of, event_for, send

_LIVES = {
    "without an end": "expires_at = NULL",
    "until the next hour": "expires_at = now() + interval '1 hour'",
    "with a mark of an earlier end": "expires_at = now() + interval '1 hour', expired_at = now() - interval '1 hour'",
}
_HAS_ENDED = {
    "revoked": "revoked_at = now()",
    "expired": "expires_at = now() - interval '1 second'",
    # The worker has seen it expire, and PostgreSQL's clock was set back since.
    "marked as expired": "expires_at = now() + interval '1 hour', expired_at = now() + interval '1 hour'",
}


@pytest.fixture(name="change")
def _change(client: FlaskClient, context: Context, alice: Tenant) -> Callable[[str], None]:
    """Changes the row of alice's key, which is in memory."""
    assert send(client, alice).status_code == 201
    return lambda to: execute(context, f"UPDATE source_keys SET {to} WHERE id = :id", id=alice.key_row)


@pytest.fixture(name="exceed_rate")
def _exceed_rate(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From then on every key is over its rate."""

    def refuse(*_: object, **__: object) -> None:
        raise RateLimitExceeded

    return lambda: monkeypatch.setattr(app.extensions[INGEST].rate_limiter, "admit", refuse)


@pytest.mark.parametrize("end", _HAS_ENDED)
def test_a_wrong_event_of_a_key_that_has_ended_is_a_401(
    client: FlaskClient, alice: Tenant, change: Callable[[str], None], end: str
) -> None:
    """It learns nothing of what is wrong with its event."""
    change(_HAS_ENDED[end])

    for wrong in ("not JSON", event_for(alice, severity="loud"), "x" * 600_000):
        refused = send(client, alice, wrong)
        assert (refused.status_code, error_of(refused)["code"]) == (401, "invalid_source_key")


@pytest.mark.parametrize("life", _LIVES)
def test_a_wrong_event_of_a_key_that_lives_is_refused_for_what_is_wrong(
    client: FlaskClient, alice: Tenant, change: Callable[[str], None], life: str
) -> None:
    change(_LIVES[life])

    assert send(client, alice, "not JSON").status_code == 400


def test_a_revoked_key_over_its_rate_is_a_429(
    client: FlaskClient, alice: Tenant, change: Callable[[str], None], exceed_rate: Callable[[], None]
) -> None:
    """Whether it still lives is not asked: see below."""
    change(_HAS_ENDED["revoked"])
    exceed_rate()

    for body in (None, "not JSON"):
        refused = send(client, alice, body)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")


@pytest.fixture(name="statements")
def _statements(context: Context) -> Iterator[list[str]]:
    """What this thread sends to PostgreSQL; the client's requests are served on it."""
    statements: list[str] = []
    own = threading.get_ident()

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if threading.get_ident() == own:
            statements.append(statement)

    event.listen(context.database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(context.database.engine, "before_cursor_execute", note)


@pytest.mark.parametrize("path", [PATH, f"{PATH}/batch"])
def test_a_429_sends_no_statement_to_the_database(
    client: FlaskClient, alice: Tenant, statements: list[str], exceed_rate: Callable[[], None], path: str
) -> None:
    """Else a flood beyond the limit would be a flood of statements."""

    def status() -> int:
        headers = {"X-API-Key": alice.key}
        return client.post(path, data="not JSON", headers=headers, content_type="application/json").status_code

    assert send(client, alice).status_code == 201  # the key is in memory from here on
    statements.clear()
    assert status() == 400
    assert statements, "what is sent is not noticed"
    statements.clear()
    exceed_rate()

    assert status() == 429
    assert statements == []
