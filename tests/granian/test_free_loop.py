"""What asks the database, takes milliseconds or writes a log runs on a thread: the event loop serves all workspaces."""

import asyncio
import json
import logging
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, cast

import pytest
from flask import Flask

from app.errors import StorageUnavailable
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.granian.adapter import GranianAdapter
from app.ingest.fast_path import FastPath
from app.ingest.services import EXTENSION as INGEST
from app.telemetry import logs
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for, send

Send = Callable[[bytes], int]


class _Scope:
    """The head of a common event, as granian gives it."""

    method, http_version, scheme, query_string, authority = "POST", "1.1", "http", "", None
    path, server, client = PATH, "127.0.0.1:8000", "127.0.0.1:9"

    def __init__(self, tenant: Tenant, body: bytes) -> None:
        self.headers = {
            "host": "localhost",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-api-key": tenant.key,
        }


class _Protocol:
    """How granian hands the body over and takes the answer."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.statuses: list[int] = []

    async def __call__(self) -> bytes:
        return self._body

    def response_bytes(self, status: int, _headers: object, _body: bytes) -> None:
        self.statuses.append(status)


class _Threads:
    """The threads on which something was done; the event loop of the test runs on the test's own."""

    def __init__(self) -> None:
        self.used: list[int] = []

    def noting(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            self.used.append(threading.get_ident())
            return function(*arguments)

        return noted

    @property
    def has_loop(self) -> bool:
        return threading.get_ident() in self.used

    @property
    def is_other(self) -> bool:
        """Whether it was done, and never on the event loop."""
        return bool(self.used) and not self.has_loop


@pytest.fixture(name="threads")
def _threads() -> _Threads:
    return _Threads()


@pytest.fixture(name="send_on_loop")
def _send_on_loop(app: Flask, alice: Tenant) -> Send:
    """Sends an event of alice's through the adapter, and returns the answer's status."""
    adapter = GranianAdapter(cast(FastPath, app.wsgi_app), app.extensions[INGEST], app.extensions[SHARED_ANSWERS])

    async def answer(protocol: _Protocol, body: bytes) -> None:
        adapter.__rsgi_init__(asyncio.get_running_loop())
        try:
            await adapter.__rsgi__(cast(Any, _Scope(alice, body)), cast(Any, protocol))
        finally:
            adapter.__rsgi_del__(asyncio.get_running_loop())

    def send_on_loop(body: bytes) -> int:
        protocol = _Protocol(body)
        asyncio.run(answer(protocol, body))
        (status,) = protocol.statuses
        return status

    assert send(app.test_client(), alice, "not JSON").status_code == 400  # the key is in memory from here on
    return send_on_loop


def test_the_exact_reader_runs_on_a_thread(
    send_on_loop: Send, alice: Tenant, threads: _Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    _note(monkeypatch, threads, "event.read_object")
    uncommon = json.dumps(event_for(alice, severity="warning")).replace("warning", "\\u0077arning")

    assert send_on_loop(uncommon.encode()) == 201
    assert threads.is_other


def test_what_a_refusal_names_is_asked_on_a_thread(
    send_on_loop: Send, alice: Tenant, threads: _Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    _note(monkeypatch, threads, "verdicts.named_refusals")

    assert send_on_loop(json.dumps(event_for(alice, source_id="src_other")).encode()) == 403
    assert threads.is_other


def test_whether_the_key_of_a_wrong_event_still_lives_is_asked_on_a_thread(
    send_on_loop: Send, threads: _Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    _note(monkeypatch, threads, "acceptance._require_live")

    assert send_on_loop(b"no JSON") == 400
    assert threads.is_other


class _Handler(logging.Handler):
    def __init__(self, threads: _Threads) -> None:
        super().__init__()
        self.emit = threads.noting(lambda _: None)  # type: ignore[method-assign]


@pytest.fixture(name="log_writes")
def _log_writes(threads: _Threads) -> Iterator[_Threads]:
    """The threads on which lines are written."""
    with logging_left_alone():
        logs.configure("INFO")
        logging.getLogger().addHandler(_Handler(threads))
        yield threads


@pytest.mark.parametrize("step", ["event.uuid7", "fast_path.client_address", "fast_path._ANSWERS.add"])
def test_a_crash_is_logged_on_a_thread(
    send_on_loop: Send, alice: Tenant, log_writes: _Threads, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def crash(*_: object) -> None:
        raise RecursionError

    monkeypatch.setattr(f"app.ingest.{step}", crash)

    assert send_on_loop(json.dumps(event_for(alice)).encode()) == (201 if step == "fast_path._ANSWERS.add" else 500)
    assert log_writes.is_other


def test_a_refusal_and_its_cause_are_logged_later(
    app: Flask, send_on_loop: Send, alice: Tenant, log_writes: _Threads, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StorageUnavailable from OSError("lost")

    monkeypatch.setattr(app.extensions[INGEST].committer, "submit", refuse)

    assert send_on_loop(json.dumps(event_for(alice)).encode()) == 503
    assert not log_writes.has_loop


def _note(monkeypatch: pytest.MonkeyPatch, threads: _Threads, function: str) -> None:
    module, name = function.split(".")
    monkeypatch.setattr(f"app.ingest.{function}", threads.noting(getattr(import_module(f"app.ingest.{module}"), name)))
