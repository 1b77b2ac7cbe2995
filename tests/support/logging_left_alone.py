"""Leaves logging as a test has found it: each app that is made sends all records where its own settings say."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def logging_left_alone() -> Iterator[None]:
    """A block in which an app may be made, or logging be configured."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers = handlers
        # Not the attribute: each logger remembers what the level lets through until it is set in this way.
        root.setLevel(level)
