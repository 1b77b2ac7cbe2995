"""What the fast path logs: one wide line, the same as Flask's, and nothing of another request."""

import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient

from app.errors import StorageUnavailable
from app.ingest.fast_path import FastPath
from app.ingest.services import EXTENSION as INGEST
from app.telemetry import logs
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant
from tests.support.sending import event_for, send
from tests.support.waiting import wait_until


@pytest.fixture(name="fast_path")
def _fast_path(app: Flask) -> Iterator[FastPath]:
    """Off: what Flask logs is written at once. A test turns it on."""
    fast_path = app.wsgi_app
    assert isinstance(fast_path, FastPath)
    fast_path.is_on = False
    with logging_left_alone():
        yield fast_path
    fast_path.is_on = True
    structlog.contextvars.clear_contextvars()


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.fixture(name="lose_connection")
def _lose_connection(app: Flask, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on, no attempt is stored."""

    def refuse(*_: object) -> None:
        raise StorageUnavailable from OSError("connection\n lost: postgresql://app:pass-word@db/lariba")

    return lambda: monkeypatch.setattr(app.extensions[INGEST].committer, "store", refuse)


@pytest.mark.parametrize("what", ["a duplicate", "a refusal", "a refusal with a cause"])
def test_the_fast_paths_line_is_the_one_that_flask_writes(
    client: FlaskClient,
    alice: Tenant,
    capsys: pytest.CaptureFixture[str],
    fast_path: FastPath,
    lose_connection: Callable[[], None],
    what: str,
) -> None:
    logs.configure("INFO")
    event = event_for(alice, event_id="e")
    send(client, alice, event, headers={"X-Request-ID": "first"})
    if what == "a refusal with a cause":
        lose_connection()
    again = event | {"payload": {}} if what == "a refusal" else event
    send(client, alice, again, headers={"X-Request-ID": "same"})
    _, by_flask = _lines(capsys)
    fast_path.is_on = True
    send(client, alice, again, headers={"X-Request-ID": "same"})
    (by_fast_path,) = _lines_of_fast_path(capsys)

    assert list(by_fast_path) == list(by_flask)
    for changing in ("timestamp", "milliseconds"):
        del by_fast_path[changing], by_flask[changing]
    assert by_fast_path == by_flask


@pytest.mark.parametrize("way", ["by Flask", "on the fast path"])
def test_the_line_of_a_refusal_is_its_only_one_and_holds_its_cause_without_secrets(
    client: FlaskClient,
    alice: Tenant,
    capsys: pytest.CaptureFixture[str],
    fast_path: FastPath,
    lose_connection: Callable[[], None],
    way: str,
) -> None:
    logs.configure("INFO")
    send(client, alice)
    _lines(capsys)
    lose_connection()
    fast_path.is_on = way == "on the fast path"
    send(client, alice)

    (line,) = _lines_of_fast_path(capsys)
    assert (line["event"], line["level"], line["error_code"]) == ("event_refused", "warning", "storage_unavailable")
    assert line["cause"] == "OSError: connection lost: postgresql://app:[redacted]@db/lariba"


def test_what_is_logged_on_the_fast_path_has_no_field_of_the_threads_last_request(
    client: FlaskClient,
    alice: Tenant,
    charlie: Tenant,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fast_path: FastPath,
) -> None:
    """A thread of a WSGI server keeps its context variables from one request to the next."""

    def crash() -> None:
        logging.getLogger("library").warning("a line of a library")
        raise RuntimeError

    logs.configure("INFO")
    send(client, alice)
    fast_path.is_on = True
    monkeypatch.setattr("app.ingest.event.uuid7", crash)
    structlog.contextvars.bind_contextvars(cause="of charlie's", error_code="x", key=charlie.key_id, outcome="y")
    _lines(capsys)
    send(client, alice, headers={"X-Request-ID": "mine"})

    by_library, crashed, *_ = _lines_of_fast_path(capsys, 3)
    assert set(by_library) == {"timestamp", "level", "event", "logger"}
    assert set(crashed) == {"timestamp", "level", "event", "exception", "key", "method", "path", "request_id"}
    assert (crashed["event"], crashed["key"], crashed["request_id"]) == ("request_crashed", alice.key_id, "mine")


def _lines_of_fast_path(capsys: pytest.CaptureFixture[str], count: int = 1) -> list[dict[str, object]]:
    """At least so many; the buffered ones are written at the next tick, a twentieth of a second later."""
    lines: list[dict[str, object]] = []

    def is_written() -> bool:
        lines.extend(_lines(capsys))
        return len(lines) >= count

    wait_until(is_written)
    return lines
