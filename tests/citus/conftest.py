"""A cell on the Citus cluster that TEST_CITUS_URL names. The tests here take the place of its applications too."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.ingest.fast_path import FastPath
from tests.support.citus import CitusCell, citus_cell, insert_apart
from tests.support.patient import patient_app
from tests.support.people import Tenant, make_tenant


@pytest.fixture(scope="session", name="cell")
def _cell() -> Iterator[CitusCell]:
    given = os.environ.get("TEST_CITUS_URL")
    if not given:
        pytest.skip("TEST_CITUS_URL names no Citus cluster (docs/scaling.md)")
    with citus_cell(given) as cell:
        yield cell


@pytest.fixture(scope="session", name="settings")
def _settings(cell: CitusCell, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Of a process that speaks to a node which does not have the cell's rows."""
    through_another = cell.through(cell.others()[-1])
    return replace(through_another, download_dir=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="session", name="app")
def _app(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    with patient_app(settings, credentials) as app:
        yield app


@pytest.fixture(scope="session", name="context")
def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context


@pytest.fixture(name="tenant")
def _tenant(context: Context) -> Callable[[], Tenant]:
    return lambda: make_tenant(context, insert_apart)


@pytest.fixture(name="alice")
def _alice(tenant: Callable[[], Tenant]) -> Tenant:
    return tenant()


@pytest.fixture(name="charlie")
def _charlie(tenant: Callable[[], Tenant]) -> Tenant:
    return tenant()


@pytest.fixture(name="client", params=["fast", "flask"])
def _client(app: Flask, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
    """A client of the app, and of the same app without its fast path."""
    fast_path = app.wsgi_app
    assert isinstance(fast_path, FastPath)
    fast_path.is_on = request.param == "fast"
    yield app.test_client()
    fast_path.is_on = True
