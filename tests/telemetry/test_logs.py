"""Logs: one JSON object a line, and never a credential in it."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.envelope import Envelope
from app.ingest.fast_path import FastPath
from app.management.common.authentication import authenticate
from app.management.common.operators import Role
from app.management.keys.domain import NewKey
from app.management.sources.domain import NewSource, create_source
from app.management.tokens.domain import NewToken, issue_token
from app.models import SourceType
from app.telemetry import logs
from tests.ingest.test_policies import limit
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant, execute, rows
from tests.support.sending import PATH, event_for, send
from tests.support.waiting import wait_until


@pytest.fixture(autouse=True)
def _at_full_volume(fast_path: FastPath) -> Iterator[None]:
    with logging_left_alone():
        yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture(name="fast_path")
def _fast_path(app: Flask) -> Iterator[FastPath]:
    """Off: what Flask logs is written at once. A test that wants it turns it on."""
    fast_path = app.wsgi_app
    assert isinstance(fast_path, FastPath)
    fast_path.is_on = False
    yield fast_path
    fast_path.is_on = True


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_no_credential_reaches_the_log_however_a_request_goes_wrong(
    client: FlaskClient, context: Context, alice: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("DEBUG")
    send(client, alice)
    send(client, alice, event_for(alice, payload={"leaked": alice.key}))
    send(client, alice, f'{{"{alice.key}": 1}}')
    send(client, alice, key=alice.token)
    send(client, alice, key=alice.key + "x")
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)
    send(client, alice)
    logging.getLogger("library").error("failed for %s and %s", alice.key, {"token": alice.token})
    structlog.get_logger().error("x", deep={"list": [alice.key]}, url="postgresql://u:pass-word@host/db")
    try:
        int(alice.key)
    except ValueError:
        structlog.get_logger().exception("crashed")

    captured = capsys.readouterr()
    for credential in (alice.key, alice.token):
        secret = credential.rsplit("_", 1)[1]
        assert secret not in captured.err + captured.out
    assert "pass-word" not in captured.err
    assert f"lrb_sk_{alice.key_id[4:]}_[redacted]" in captured.err


def test_a_key_in_the_query_reaches_the_log_on_no_way(
    client: FlaskClient, context: Context, alice: Tenant, charlie: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("DEBUG")
    page = {"Origin": "https://shop.example", "Content-Type": "text/plain"}
    limit(context, alice, allowed_event_types=["payment.*"], allowed_origins=[page["Origin"]])
    for key in (alice.key, charlie.key, alice.token, f"{alice.key}x"):
        for path in (PATH, f"{PATH}/batch", f"{PATH}/nothing", "/v1/projects"):
            for query in ("", "&kye=1"):
                client.post(f"{path}?key={key}{query}", data=json.dumps(event_for(alice)), headers=page)
        client.post(f"{PATH}?key={key}", data="{", headers=page | {"Origin": "https://evil.example"})
        client.get(f"{PATH}?key={key}")
        client.options(f"{PATH}?key={key}", headers=page | {"Access-Control-Request-Method": "POST"})

    captured = capsys.readouterr()
    written = captured.err + captured.out
    assert written.count("event_accepted") == 1
    for credential in (alice.key, charlie.key, alice.token):
        assert credential.rsplit("_", 1)[1] not in written


@pytest.mark.parametrize("way", ["by Flask", "on the fast path"])
def test_a_credential_sent_as_the_request_id_stands_nowhere(
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    capsys: pytest.CaptureFixture[str],
    fast_path: FastPath,
    way: str,
) -> None:
    logs.configure("INFO")
    fast_path.is_on = way == "on the fast path"
    carriers = [alice.key, f"retry-of:{alice.token}", f"{alice.key}.2"]
    answers = [send(client, alice, headers={"X-Request-ID": it}) for it in carriers]
    answers += [
        client.post("/v1/projects", json={"name": str(n)}, headers=alice.bearer | {"X-Request-ID": it})
        for n, it in enumerate(carriers)
    ]
    written = ""

    def is_written() -> bool:
        nonlocal written
        written += capsys.readouterr().err
        return written.count('"event_accepted"') == len(carriers)

    wait_until(is_written)
    audit = rows(context, "SELECT request_id FROM audit_entries WHERE workspace_id = :id", id=alice.workspace_row)

    assert {each.status_code for each in answers} == {201}
    for answer in answers:
        assert answer.headers["X-Request-ID"].startswith("req_")
    for secret in (alice.key.rsplit("_", 1)[1], alice.token.rsplit("_", 1)[1]):
        assert secret not in written
        assert secret not in str(audit)
    assert audit


def test_each_request_leaves_one_wide_line(
    client: FlaskClient, alice: Tenant, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("INFO")
    send(client, alice, idempotency_key="k", headers={"X-Request-ID": "mine-1"})
    send(client, alice, idempotency_key="k")
    send(client, alice, event_for(alice, severity="x"))

    accepted, replayed, refused = _lines(capsys)
    assert (accepted["event"], accepted["status"], accepted["request_id"]) == (
        "event_accepted",
        201,
        "mine-1",
    )
    assert (accepted["key"], accepted["level"]) == (alice.key_id, "info")
    assert isinstance(accepted["milliseconds"], float)
    assert replayed["event"] == "event_replayed"
    assert (refused["event"], refused["error_code"]) == ("event_refused", "schema_validation_failed")


def test_a_crash_is_logged_with_its_cause_and_answered_without_it(
    app: Flask,
    client: FlaskClient,
    alice: Tenant,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("an inner detail")

    logs.configure("INFO")
    monkeypatch.setattr("app.ingest.routes.accept", crash)

    response = send(client, alice)

    assert response.status_code == 500
    assert response.json is not None
    assert response.json["error"]["code"] == "internal_error"
    assert b"inner detail" not in response.data
    crashed, line = _lines(capsys)
    assert "an inner detail" in str(crashed["exception"])
    assert crashed["request_id"] == response.json["error"]["request_id"]
    assert line["status"] == 500


def test_a_statement_that_fails_is_logged_without_its_parameters(
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs.configure("INFO")
    broken = Envelope(
        event_type="a", source_id=alice.source_id, payload=b'{"a private": "matter"}', severity="x", fingerprint=b""
    )
    monkeypatch.setattr("app.ingest.event.read_common_envelope", lambda _: broken)

    assert send(client, alice).status_code == 500

    captured = capsys.readouterr().err
    assert "ck_events_severity" in captured
    assert "a private" not in captured


def test_a_path_of_any_length_is_logged_short_and_at_once(
    client: FlaskClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """No clock here: a search that begins anew at each letter would take minutes."""
    logs.configure("INFO")
    structlog.get_logger().info("x", text="a" * 400_000)
    client.get("/" + "a" * 400_000)

    _, line = _lines(capsys)
    assert len(str(line["path"])) == 500


def test_a_credential_in_the_answer_that_issues_it_stands_in_no_repr(context: Context, alice: Tenant) -> None:
    """A crash on the way out would write it into a traceback."""
    operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
    new = NewSource(name="ERP", type=SourceType.ERP)

    source = create_source(context.database, context.credentials, operator, alice.environment_id, new, NewKey())
    token = issue_token(context.database, context.credentials, operator, NewToken(role=Role.AUDITOR))

    assert source.key is not None
    assert source.key.key.startswith("lrb_sk_")
    assert "lrb_" not in f"{source!r} {source.key!r} {token!r}"
