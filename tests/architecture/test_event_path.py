"""The path of a common event is the one that docs/architecture.md describes, and no longer."""

import asyncio
import json
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, cast

import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION
from app.credentials.verification import Credentials
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.factory import create_app
from app.granian.adapter import GranianAdapter
from app.ingest.fast_path import FastPath
from app.ingest.services import EXTENSION as INGEST
from tests.support.databases import close
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for, send

_CHECKOUT = Path(__file__).parents[2]
_APP = _CHECKOUT / "app"
_STEPS_MAX = 12


class _Scope:
    """The scope that granian gives of a request."""

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


class _Calls:
    """By file of app/, the other files of app/ that it calls, on this thread and on the committer's.

    Other threads have work of their own, which no event waits for.
    """

    def __init__(self) -> None:
        self.of: dict[str, set[str]] = defaultdict(set)
        self._own = threading.get_ident()

    def note(self, frame: FrameType, event: str, _: object) -> None:
        file = _file_of(frame)
        if event != "call" or file is None:
            return
        if threading.get_ident() != self._own and threading.current_thread().name != "committer":
            return
        self.of[file] |= set()
        caller = None if frame.f_back is None else _file_of(frame.f_back)
        if caller is not None and caller != file:
            self.of[caller].add(file)


def _file_of(frame: FrameType) -> str | None:
    path = Path(frame.f_code.co_filename)
    return f"app/{path.relative_to(_APP)}" if path.is_relative_to(_APP) else None


@pytest.fixture(name="own_app")
def _own_app(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    """An application whose committer has not started its threads yet."""
    app = create_app(replace(settings, storage_deadline_seconds=30.0), credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)


@pytest.fixture(name="calls")
def _calls() -> Iterator[_Calls]:
    calls = _Calls()
    threading.setprofile(calls.note)
    sys.setprofile(calls.note)
    yield calls
    sys.setprofile(None)
    threading.setprofile(None)


def test_a_common_event_passes_the_files_that_the_documentation_lists(
    own_app: Flask, alice: Tenant, calls: _Calls
) -> None:
    """A file is a step of the path if it calls others; what calls none is a helper, which a reader need not open."""
    body = json.dumps(event_for(alice)).encode()
    protocol = _Protocol(body)
    adapter = GranianAdapter(
        cast(FastPath, own_app.wsgi_app), own_app.extensions[INGEST], own_app.extensions[SHARED_ANSWERS]
    )

    async def answer() -> None:
        adapter.__rsgi_init__(asyncio.get_running_loop())
        try:
            await adapter.__rsgi__(cast(Any, _Scope(alice, body)), cast(Any, protocol))  # opens the connection
            calls.of.clear()
            await adapter.__rsgi__(cast(Any, _Scope(alice, body)), cast(Any, protocol))
        finally:
            sys.setprofile(None)
            adapter.__rsgi_del__(asyncio.get_running_loop())

    assert send(own_app.test_client(), alice, "not JSON").status_code == 400  # the key is in memory from here on
    asyncio.run(answer())

    steps = {file for file, called in calls.of.items() if called}
    assert protocol.statuses == [201, 201]
    assert steps == set(_documented("one event"))
    assert len(steps) <= _STEPS_MAX
    assert set(calls.of) - steps == set(_documented("helpers"))


def _documented(what: str) -> list[str]:
    """The files that a section of docs/architecture.md lists, at the beginning of its lines or in its helpers' line."""
    page = (_CHECKOUT / "docs" / "architecture.md").read_text()
    (section,) = re.findall(rf"^## [^\n]*{what}[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    listed: list[str] = re.findall(r"`(app/[a-z_/]+\.py)`", section)
    return listed
