"""The schedule of beat."""

import time
from datetime import UTC, datetime
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from celery.beat import Scheduler

from app.config import Settings
from app.worker import create_celery


def test_beat_goes_on_when_the_clock_is_set_back(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    celery = create_celery(settings)
    entries = Scheduler(celery).schedule.values()
    monkeypatch.setattr(celery, "now", lambda: datetime(2000, 1, 1, tzinfo=UTC))
    later = time.monotonic() + 11
    monkeypatch.setattr("app.worker.time", SimpleNamespace(monotonic=lambda: later))

    assert [entry.name for entry in entries if not entry.is_due()[0]] == []
    celery.close()


def test_the_worker_prepares_no_statement_whose_plan_would_lock_every_day(settings: Settings) -> None:
    with patch("app.worker.Database") as database:
        create_celery(settings).close()

    assert database.call_args.kwargs["prepares"] is False
