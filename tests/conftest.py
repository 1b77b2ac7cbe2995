"""One database per test run, on the embedded PostgreSQL or on the server that TEST_DATABASE_URL names.

Tests commit for real and share that database; each makes its own workspace, so none sees another's rows.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from argon2 import PasswordHasher, Type, profiles
from flask import Flask
from flask.testing import FlaskClient

from app import factory
from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from local.postgres import EmbeddedPostgres
from local.redis import EmbeddedRedis
from tests.support.databases import SECRET_KEY, fresh_database
from tests.support.live import LiveServer, live_server
from tests.support.patient import patient, patient_app
from tests.support.people import Tenant, make_tenant

# Enough connections for several applications with pools of their own. Without fsync a killed process loses no more than
# with it, only a machine that ends would; so no test waits for the disk, which other work may keep busy for seconds.
_OPTIONS = {"max_connections": "300", "fsync": "off"}


@pytest.fixture(scope="session", name="server_url")
def _server_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The superuser's way to a PostgreSQL server."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        yield given
        return
    with EmbeddedPostgres(tmp_path_factory.mktemp("pg") / "data", options=_OPTIONS) as server:
        yield server.url("postgres", "postgres")


@pytest.fixture(scope="session", name="settings")
def _settings(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a fresh database with an owner and an app's role, migrated to head, and of a folder for exports."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        yield replace(settings, download_dir=str(tmp_path_factory.mktemp("downloads")))


@pytest.fixture(scope="session", name="migrated")
def _migrated(server_url: str) -> Iterator[Settings]:
    """A database to be copied: migrating each anew would take longer than most tests."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        yield settings


@pytest.fixture(scope="session", name="credentials")
def _credentials() -> Credentials:
    cheapest = PasswordHasher.from_parameters(profiles.CHEAPEST)
    assert cheapest.type is Type.ID
    credentials = Credentials((SECRET_KEY,), argon2_runs_max=8, hasher=cheapest)
    # A preload would read beside tests that look at connections or at what is sent to PostgreSQL.
    credentials.preload(lambda: ())
    return credentials


@pytest.fixture(scope="session", autouse=True)
def _no_application_of_a_test_flushes_counts_by_itself() -> Iterator[None]:
    """A thread would write beside tests that look at the outbox, or at what is sent to PostgreSQL, and would reopen a
    database that a test has closed. Servers in processes of their own flush as in production.
    """
    defaults = factory.create_app.__kwdefaults__ or {}
    before = defaults["count_flush_seconds"]
    defaults["count_flush_seconds"] = None
    yield
    defaults["count_flush_seconds"] = before


@pytest.fixture(scope="session", name="app")
def _app(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    with patient_app(settings, credentials) as app:
        yield app


@pytest.fixture(scope="session", name="context")
def _context(app: Flask) -> Context:
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    return context


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(name="tenant")
def _tenant(context: Context) -> Callable[[], Tenant]:
    """A new workspace with project, production environment, source, key and token at each call."""
    return lambda: make_tenant(context)


@pytest.fixture(name="alice")
def _alice(context: Context) -> Tenant:
    """Owns a workspace."""
    return make_tenant(context)


@pytest.fixture(name="charlie")
def _charlie(context: Context) -> Tenant:
    """A stranger: owns another workspace."""
    return make_tenant(context)


@pytest.fixture(scope="session", name="checkout")
def _checkout() -> Path:
    return Path(__file__).parent.parent


@pytest.fixture(scope="session", name="live")
def _live(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    """Four web processes on the test database."""
    with live_server(patient(settings, pool_size=16), checkout, workers=4) as server:
        yield server


@pytest.fixture(scope="session", name="broker_url")
def _broker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A broker for real workers."""
    given = os.environ.get("TEST_BROKER_URL")
    if given:
        yield given
        return
    with EmbeddedRedis(tmp_path_factory.mktemp("redis") / "data") as broker:
        yield broker.broker_url
