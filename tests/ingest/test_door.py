"""The door: what nothing there foresaw is answered all the same, once, as docs/errors.md says."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.door import Door
from app.ingest.pending_write import WriteResult
from app.ingest.routes import COUNTER
from app.telemetry.metrics import REGISTRY, flush
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, error_of, event_for, send
from tests.support.waiting import wait_until

Answer = tuple[int, dict[str, str], dict[str, Any]]


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


def _crash(*_: object, **__: object) -> None:
    raise RecursionError("an inner detail")


@pytest.mark.parametrize("step", ["read_common_envelope", "client_address", "uuid7", "request_id_from"])
def test_a_crash_before_the_event_is_stored_is_a_500_that_is_counted(
    client: FlaskClient, context: Context, alice: Tenant, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(client, alice).status_code == 201  # the key is known from here on
    before = _counted("internal_error")
    monkeypatch.setattr(f"app.ingest.door.{step}", _crash)

    response = send(client, alice, headers={"X-Request-ID": "mine"})

    assert (response.status_code, error_of(response)["code"]) == (500, "internal_error")
    assert error_of(response)["request_id"] == "mine"
    assert b"an inner detail" not in response.data
    assert _counted("internal_error") == before + 1
    assert len(events_of(context, alice)) == 1


@pytest.mark.parametrize("step", ["_ANSWERS.add", "uuid7"])
def test_an_answer_that_comes_later_is_given_once_whatever_crashes(
    app: Flask, context: Context, alice: Tenant, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(app.test_client(), alice).status_code == 201
    monkeypatch.setattr(f"app.ingest.door.{step}", _crash)

    (answer,) = _answers_later(app, alice)

    status, headers, body = answer
    stored = step == "_ANSWERS.add"
    assert status == (201 if stored else 500)
    assert body.get("status") == ("stored" if stored else None)
    assert headers["X-Request-ID"] == "mine"
    assert len(events_of(context, alice)) == 1 + stored


def test_a_committer_that_cannot_begin_is_a_500(app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    client = app.test_client()
    assert send(client, alice).status_code == 201
    monkeypatch.setattr(app.extensions[COUNTER].committer, "submit", _crash)

    assert [status for status, _, _ in _answers_later(app, alice)] == [500]
    assert send(client, alice).status_code == 500


def _answers_later(app: Flask, tenant: Tenant) -> list[Answer]:
    """What the door answers an adapter that reads bodies itself, as app/granian asks it."""
    door = app.wsgi_app
    assert isinstance(door, Door)
    body = json.dumps(event_for(tenant)).encode()
    environ = app.test_request_context(
        PATH, method="POST", data=body, content_type="application/json", headers={"X-Request-ID": "mine"}
    ).request.environ | {"HTTP_X_API_KEY": tenant.key, "wsgi.input": io.BytesIO(body)}
    answers: list[Answer] = []

    def respond(status: int, headers: list[tuple[str, str]], content: bytes) -> None:
        answers.append((status, dict(headers), json.loads(content)))

    def fall_back() -> None:
        _answer_at_once(door, environ, respond)

    expected = door.expects(environ)
    visit = expected and door.visit(environ, expected, body)
    if not visit:
        fall_back()
        return answers
    decisions: list[WriteResult] = []
    door.submit(visit, decisions.append)
    wait_until(lambda: decisions)
    if (answer := door.answer(environ, visit, decisions[0])) is None:
        fall_back()
    else:
        respond(*answer)
    return answers


def _answer_at_once(
    door: Door, environ: dict[str, Any], respond: Callable[[int, list[tuple[str, str]], bytes], None]
) -> None:
    started: list[tuple[str, list[tuple[str, str]]]] = []
    chunks = door.application(environ, lambda status, headers, *_: started.append((status, headers)))
    respond(int(started[0][0].split()[0]), started[0][1], b"".join(chunks))


def _counted(outcome: str) -> float:
    flush()
    labels = {"method": "POST", "route": PATH, "outcome": outcome}
    return REGISTRY.get_sample_value("lariba_requests_total", labels) or 0.0
