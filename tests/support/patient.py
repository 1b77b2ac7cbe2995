"""The application for tests: it waits longer than the product does."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final
from unittest.mock import patch

from flask import Flask

from app import factory
from app.config import Settings
from app.context import EXTENSION
from app.credentials.verification import Credentials
from tests.support.databases import close

# A machine with other work can stand still for the two seconds of the product, and for the second in which it waits for
# a lock or for a place; what is about those has its own.
_DEADLINE_SECONDS: Final = 6.0
_WAIT_SECONDS: Final = 2.5


def patient(settings: Settings, *, pool_size: int) -> Settings:
    return replace(
        settings,
        database_pool_size=pool_size,
        storage_deadline_seconds=_DEADLINE_SECONDS,
        idempotency_wait_seconds=_WAIT_SECONDS,
    )


@contextmanager
def patient_app(settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    with patch.object(factory, "_WAIT_SECONDS", _WAIT_SECONDS):
        app = factory.create_app(patient(settings, pool_size=40), credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)
    close(app.extensions[EXTENSION].reading)
