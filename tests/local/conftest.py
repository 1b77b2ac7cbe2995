"""Folders as a person might have them."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(name="short_folder")
def _short_folder() -> Iterator[Path]:
    """A private folder whose path is far below any socket's limit."""
    folder = Path(tempfile.mkdtemp(prefix="lariba-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="awkward_folder")
def _awkward_folder(tmp_path: Path) -> Path:
    """A folder too deep for any socket, with what shells and URLs trip over on the way."""
    folder = tmp_path / "a b" / "50% é, +x & 'y'" / ("deep/" * 20)
    folder.mkdir(parents=True)
    return folder
