"""Every promise of the ingest contract is kept twice: on the fast path, and by Flask alone."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.fast_path import FastPath
from tests.support.scripted_connections import ScriptedConnections


@pytest.fixture(name="client", params=["fast", "flask"])
def _client(app: Flask, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """A client of the app, and of the same app without its fast path."""
    fast_path = app.wsgi_app
    assert isinstance(fast_path, FastPath)
    fast_path.is_on = request.param == "fast"
    yield app.test_client()
    fast_path.is_on = True


@pytest.fixture(name="connections")
def _connections(context: Context) -> Iterator[ScriptedConnections]:
    """What a committer of the test's own speaks on."""
    connections = ScriptedConnections(context.database)
    yield connections
    connections.script = lambda run: run()
    connections.open.set()
