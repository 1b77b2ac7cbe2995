"""The database away or lost: a 503 that says what is known, and whether to repeat."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask

from app.config import Settings
from app.context import EXTENSION
from app.credentials.verification import Credentials
from app.errors import OutcomeUnknown
from app.factory import create_app
from app.management.projects import domain as projects
from tests.support.databases import close
from tests.support.live import free_port
from tests.support.operating import ApiClient
from tests.support.people import Tenant
from tests.support.sending import error_of


@pytest.fixture(name="lonely")
def _lonely(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    """The application beside a port where no database listens."""
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    app = create_app(replace(settings, database_url=url), credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)


def test_without_a_database_everything_is_a_503_worth_repeating(lonely: Flask, alice: Tenant) -> None:
    api = ApiClient(lonely.test_client(), alice.token)

    for refused in (api.get("/v1/projects"), api.post("/v1/projects", {"name": "x"})):
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert error_of(refused)["code"] == "storage_unavailable"
        assert error_of(refused)["retryable"] is True


def test_a_commit_without_an_answer_says_that_its_outcome_is_unknown(
    monkeypatch: pytest.MonkeyPatch, api: ApiClient
) -> None:
    def lost(*_: object) -> None:
        raise OutcomeUnknown

    monkeypatch.setattr(projects, "create_project", lost)

    refused = api.post("/v1/projects", {"name": "x"})

    assert refused.status_code == 503
    assert "Read before you repeat" in error_of(refused)["message"]
