"""`GET /metrics`: who may read it, in which form, and what it says while PostgreSQL is away."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from flask.testing import FlaskClient

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.database.migrate import migrate
from app.factory import create_app
from app.monitoring import status_metrics
from app.monitoring.status_metrics import StatusMetrics
from app.monitoring.system_status import SystemStatus, read_system_status
from local.postgres import EmbeddedPostgres
from tests.support.counting import count_of, counts_of_page
from tests.support.databases import SECRET_KEY, close
from tests.support.people import Tenant
from tests.support.sending import error_of, send

_TOKEN = "what Prometheus knows"


def _client_of(settings: Settings, credentials: Credentials) -> Iterator[FlaskClient]:
    app = create_app(settings, credentials=credentials)
    yield app.test_client()
    close(app.extensions[EXTENSION].database)


@pytest.fixture(name="guarded")
def _guarded(settings: Settings, credentials: Credentials) -> Iterator[FlaskClient]:
    yield from _client_of(replace(settings, metrics_token=_TOKEN), credentials)


class TestToken:
    @pytest.mark.parametrize("header", [None, "", _TOKEN, "Bearer", "Bearer wrong", f"Basic {_TOKEN}", "Bearer \u00fc"])
    def test_without_the_token_there_is_nothing_to_read(self, guarded: FlaskClient, header: str | None) -> None:
        response = guarded.get("/metrics", headers={} if header is None else {"Authorization": header})

        assert response.status_code == 401
        assert error_of(response)["code"] == "invalid_metrics_token"
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="lariba"'
        assert b"lariba_" not in response.data

    def test_with_the_token_the_page_opens(self, guarded: FlaskClient) -> None:
        assert guarded.get("/metrics", headers={"Authorization": f"Bearer {_TOKEN}"}).status_code == 200

    def test_a_management_token_opens_nothing(self, guarded: FlaskClient, alice: Tenant) -> None:
        assert guarded.get("/metrics", headers=alice.bearer).status_code == 401

    def test_where_none_is_set_it_is_open(self, client: FlaskClient) -> None:
        assert client.get("/metrics").status_code == 200


class TestForm:
    def test_it_is_prometheus_text_with_what_the_processes_and_the_database_know(
        self, client: FlaskClient, alice: Tenant
    ) -> None:
        send(client, alice)

        response = client.get("/metrics")

        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        counts = counts_of_page(response.get_data(as_text=True))
        stored = {"method": "POST", "route": "/v1/events/ingest", "outcome": "stored"}
        assert count_of(counts, "lariba_requests_total", **stored) >= 1
        assert count_of(counts, "lariba_database_up") == 1
        assert count_of(counts, "lariba_event_partitions") >= 8
        assert count_of(counts, "lariba_event_retention_seconds") == 365 * 86_400

    def test_who_accepts_openmetrics_gets_that(self, client: FlaskClient) -> None:
        response = client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

        assert response.mimetype == "application/openmetrics-text"
        assert response.get_data(as_text=True).endswith("# EOF\n")

    @pytest.mark.parametrize("accept", ["text/plain; version=x", "application/openmetrics-text;version=;;", ",;="])
    def test_an_odd_accept_header_is_no_trouble(self, client: FlaskClient, accept: str) -> None:
        assert client.get("/metrics", headers={"Accept": accept}).status_code == 200

    def test_a_scrape_leaves_no_line_in_the_log(self, client: FlaskClient, capfd: pytest.CaptureFixture[str]) -> None:
        client.get("/metrics")

        assert "/metrics" not in capfd.readouterr().err

    def test_events_that_are_kept_for_ever_are_never_too_old(
        self, settings: Settings, credentials: Credentials
    ) -> None:
        for client in _client_of(replace(settings, retention_days=None), credentials):
            page = client.get("/metrics").get_data(as_text=True)

            assert "lariba_event_retention_seconds +Inf" in page


class TestHowOften:
    def test_the_database_is_asked_once_in_five_seconds_however_many_ask(
        self, context: Context, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now, asked = 0.0, 0
        collector = StatusMetrics(context.database, context.settings, clock=lambda: now)

        def counted(database: Database) -> SystemStatus:
            nonlocal asked
            asked += 1
            return read_system_status(database)

        monkeypatch.setattr(status_metrics, "read_system_status", counted)
        list(collector.collect())
        assert asked == 1
        now = 4.9
        list(collector.collect())
        assert asked == 1

        now = 5.0
        list(collector.collect())
        assert asked == 2


@contextmanager
def _stopped(server: EmbeddedPostgres) -> Iterator[None]:
    server.stop()
    yield
    server.start()


@contextmanager
def _frozen(server: EmbeddedPostgres) -> Iterator[None]:
    postmaster = psutil.Process(server.pid)
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    yield
    for process in processes:
        process.resume()


class TestWhileTheDatabaseIsAway:
    @pytest.fixture(name="away", params=[_stopped, _frozen])
    def _away(self, tmp_path: Path, credentials: Credentials, request: pytest.FixtureRequest) -> Iterator[FlaskClient]:
        """Of an application that knew its database, which is away now."""
        with EmbeddedPostgres(tmp_path / "data") as server:
            settings = Settings(
                database_url=server.url("lariba_app", "lariba"),
                admin_database_url=server.url("lariba_owner", "lariba"),
                broker_url="memory://",
                secret_key=(SECRET_KEY,),
                log_level="ERROR",
            )
            migrate(settings)
            for client in _client_of(settings, credentials):
                assert client.get("/readyz").status_code == 200
                with request.param(server):
                    yield client

    def test_the_page_comes_in_time_with_what_the_processes_know(self, away: FlaskClient) -> None:
        began = time.monotonic()
        response = away.get("/metrics")

        assert time.monotonic() - began < 2  # what is promised, and not a measurement
        assert response.status_code == 200
        counts = counts_of_page(response.get_data(as_text=True))
        assert count_of(counts, "lariba_database_up") == 0
        assert "lariba_usage_outbox_rows" not in response.get_data(as_text=True)
        assert count_of(counts, "lariba_requests_total", method="GET", route="/readyz", outcome="2xx") >= 1
        assert count_of(counts, "lariba_event_retention_seconds") > 0
