"""What a module writes to the log, as it says it."""

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import structlog
from structlog.testing import capture_logs


@contextmanager
def logged_by(module: str) -> Iterator[list[MutableMapping[str, Any]]]:
    """The entries of a module's `_log`, without what is bound to the context.

    A logger that was used before keeps what was configured then, so the module gets a new one.
    """
    with patch(f"{module}._log", structlog.get_logger()), capture_logs() as lines:
        yield lines
