"""Pages that were read a moment ago, for the others who ask for the same.

When an event comes, it wakes all followers of its project at once, and most of them are at the same place. A page is
true for good up to where it ends, so the others may have it too, if they can wait for what has come since.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from app.concurrency.fork import reset_after_fork
from app.errors import NotFound
from app.events.feed.cursors import Place
from app.events.feed.domain import Page
from app.events.names import note_project
from app.management.common.operators import Operator

_SECONDS: Final = 0.1
_PAGES_MAX: Final = 256
# Of payloads, in one page that is kept.
_BYTES_MAX: Final = 65_536


class Asked(NamedTuple):
    """What makes two pages the same."""

    workspace_id: int
    project_id: str
    after: Place
    limit: int


class RecentPages:
    """Those of one process."""

    def __init__(self) -> None:
        self._reset()
        reset_after_fork(self, RecentPages._reset)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._pages: OrderedDict[Asked, tuple[float, Page]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pages)

    def page(self, asked: Asked, operator: Operator, read: Callable[[], Page]) -> Page:
        """A recent page, or what `read` returns. Raises NotFound if the caller does not reach its project."""
        with self._mutex:
            kept = self._pages.get(asked)
        if kept is not None and time.monotonic() - kept[0] < _SECONDS:
            if operator.project_rows is not None and kept[1].project_row not in operator.project_rows:
                raise NotFound
            note_project(asked.project_id)
            return kept[1]
        began = time.monotonic()
        page = read()
        if page.payload_bytes <= _BYTES_MAX:
            with self._mutex:
                self._pages[asked] = began, page
                self._pages.move_to_end(asked)
                self._forget()
        return page

    def _forget(self) -> None:
        """Drop what is too old to be given away: a page of a thousand small events takes a megabyte."""
        until = time.monotonic() - _SECONDS
        while self._pages and (len(self._pages) > _PAGES_MAX or next(iter(self._pages.values()))[0] < until):
            self._pages.popitem(last=False)
