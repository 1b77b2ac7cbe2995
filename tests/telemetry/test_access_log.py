"""Lines of accepted requests: as many as an operator wants, and every one of the others."""

import errno
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from math import inf
from typing import Any

import pytest
import structlog
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION
from app.credentials.verification import Credentials
from app.factory import create_app
from app.telemetry import access_log, logs
from app.telemetry.access_log import RequestLine, RequestLines, Sampling
from tests.support.databases import close
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for, send
from tests.support.waiting import wait_until

Client = Callable[[int | None], FlaskClient]
Written = Callable[[int], list[Any]]


@pytest.fixture(autouse=True)
def _logging_is_left_as_it_was() -> Iterator[None]:
    with logging_left_alone():
        yield
    structlog.contextvars.clear_contextvars()


@pytest.fixture(name="client_of", params=["on", "off"], ids=["fast path", "flask"])
def _client_of(request: pytest.FixtureRequest, settings: Settings, credentials: Credentials) -> Iterator[Client]:
    """A client of an application that writes one line in so many."""
    apps = []

    def client_of(one_in: int | None) -> FlaskClient:
        settings_ = replace(settings, log_accepted_one_in=one_in, fast_path=request.param, database_pool_size=4)
        apps.append(create_app(settings_, credentials=credentials))
        logs.configure("INFO")
        return apps[-1].test_client()

    yield client_of
    for app in apps:
        close(app.extensions[EXTENSION].database)


@pytest.fixture(name="written")
def _written(capsys: pytest.CaptureFixture[str]) -> Written:
    """The lines, as many as are to come: those of the fast path are written a moment later."""
    lines: list[Any] = []

    def written(count: int) -> list[Any]:
        def is_there() -> bool:
            lines.extend(json.loads(line) for line in capsys.readouterr().err.splitlines())
            return len(lines) >= count

        wait_until(is_there)
        return lines

    return written


def test_of_each_key_one_in_so_many_leaves_a_line_that_says_so_and_every_refusal_its_own(
    client_of: Client, alice: Tenant, charlie: Tenant, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "SLOW_MILLISECONDS", inf)
    client = client_of(3)
    for n in range(6):
        send(client, alice, idempotency_key=f"k{n // 2}", headers={"X-Request-ID": f"accepted-{n}"})
    send(client, charlie, headers={"X-Request-ID": "stranger"})
    for n in range(3):
        send(client, alice, event_for(alice, severity="x"), headers={"X-Request-ID": f"refused-{n}"})

    assert {line["request_id"]: line.get("sampled_one_in") for line in written(6)} == {
        "accepted-0": 3,
        "accepted-3": 3,
        "stranger": 3,
        "refused-0": None,
        "refused-1": None,
        "refused-2": None,
    }


def test_what_is_slow_leaves_a_line_in_any_case(
    client_of: Client, alice: Tenant, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "SLOW_MILLISECONDS", 0)
    client = client_of(None)
    for _ in range(3):
        send(client, alice)

    assert [(line["event"], "sampled_one_in" in line) for line in written(3)] == [("event_accepted", False)] * 3


def test_with_none_of_them_a_refusal_still_leaves_its_line(
    client_of: Client, alice: Tenant, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access_log, "SLOW_MILLISECONDS", inf)
    client = client_of(None)
    batch = json.dumps({"events": [event_for(alice)]})
    send(client, alice)
    client.post(f"{PATH}/batch", data=batch, headers={"X-API-Key": alice.key}, content_type="application/json")
    send(client, alice, event_for(alice, severity="x"))

    assert [line["event"] for line in written(1)] == ["event_refused"]


def test_lines_that_cannot_be_written_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk neither stops what is done beside them, nor fills the memory."""
    logging.getLogger().setLevel(logging.INFO)
    lines = RequestLines(Sampling())
    for n in range(100):
        lines.add(_line(f"lost-{n}"))
    with monkeypatch.context() as machine:
        machine.setattr(sys, "stderr", _FullDisk())
        lines.flush()
    lines.add(_line("written"))
    found = StringIO()
    monkeypatch.setattr(sys, "stderr", found)
    lines.flush()

    assert [json.loads(line)["request_id"] for line in found.getvalue().splitlines()] == ["written"]


def test_while_they_cannot_be_written_only_the_newest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    logging.getLogger().setLevel(logging.INFO)
    lines = RequestLines(Sampling(), lines_max=3)
    for n in range(5):
        lines.add(_line(f"req-{n}"))
    found = StringIO()
    monkeypatch.setattr(sys, "stderr", found)
    lines.flush()

    assert [json.loads(line)["request_id"] for line in found.getvalue().splitlines()] == ["req-2", "req-3", "req-4"]


@pytest.mark.parametrize(("level", "expected"), [("INFO", ["fine", "failed"]), ("WARNING", ["failed"]), ("ERROR", [])])
def test_each_line_is_kept_if_its_own_level_is_logged(
    monkeypatch: pytest.MonkeyPatch, level: str, expected: list[str]
) -> None:
    """At LARIBA_LOG_LEVEL=WARNING a request that was answered with 5xx leaves its line, as it does in Flask."""
    logging.getLogger().setLevel(level)
    lines = RequestLines(Sampling())
    lines.add(_line("fine"))
    lines.add(_line("failed", "warning"))
    found = StringIO()
    monkeypatch.setattr(sys, "stderr", found)
    lines.flush()

    assert [json.loads(line)["request_id"] for line in found.getvalue().splitlines()] == expected


class _FullDisk(StringIO):
    def write(self, _: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def _line(request_id: str, level: str = "info") -> RequestLine:
    return RequestLine(
        level=level,
        event="event_accepted",
        key="key_1",
        method="POST",
        milliseconds=1.0,
        path=PATH,
        remote_address="127.0.0.1",
        request_id=request_id,
        status=201,
    )


@pytest.mark.parametrize("name", ["celery.beat", "celery.worker.strategy", "celery.app.trace"])
def test_what_celery_logs_of_each_tick_is_for_debugging(name: str) -> None:
    logs.configure("INFO")
    assert not logging.getLogger(name).isEnabledFor(logging.INFO)
    assert logging.getLogger(name).isEnabledFor(logging.WARNING)

    logs.configure("DEBUG")
    assert logging.getLogger(name).isEnabledFor(logging.INFO)
