"""One web process of granian for all tests of what goes over the wire."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from tests.support.live import LiveServer, live_server


@pytest.fixture(scope="session", name="live")
def _live(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    own = replace(settings, database_pool_size=8, trusted_proxies=("127.0.0.0/8",), body_seconds=2.0)
    with live_server(own, checkout) as server:
        yield server
