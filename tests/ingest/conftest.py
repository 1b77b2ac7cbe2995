"""Every promise of the ingest contract is kept twice: by the door, and by Flask alone."""

from collections.abc import Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.ingest.door import Door
from tests.support.scripted_connections import ScriptedConnections


@pytest.fixture(name="client", params=["door", "flask"])
def _client(app: Flask, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """A client of the app with its door open, and of the same app with its door closed."""
    door = app.wsgi_app
    assert isinstance(door, Door)
    door.is_open = request.param == "door"
    yield app.test_client()
    door.is_open = True


@pytest.fixture(name="connections")
def _lanes(context: Context) -> Iterator[ScriptedConnections]:
    """What a committer of the test's own speaks on."""
    connections = ScriptedConnections(context.database)
    yield connections
    connections.script = lambda run: run()
    connections.open.set()
