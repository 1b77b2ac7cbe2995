"""Two cells for each file of tests about moves."""

from collections.abc import Iterator

import pytest

from app.cells.moving import move
from app.config import Settings
from tests.support.cells import Cell, cells


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


@pytest.fixture(name="old")
def _old(pair: list[Cell]) -> Cell:
    return pair[0]


@pytest.fixture(name="new")
def _new(pair: list[Cell]) -> Cell:
    return pair[1]


@pytest.fixture(autouse=True)
def _no_request_reads_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes of these tests none is under way when a workspace has left."""
    monkeypatch.setattr(move, "_READS_END_SECONDS", 0.0)
