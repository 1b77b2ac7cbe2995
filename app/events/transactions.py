"""Transactions of which each touches few days of events."""

from collections.abc import Callable, Hashable, Iterable
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Self

from sqlalchemy.orm import Session

from app.events.statements import DAYS_AT_ONCE


class FewDays:
    """One transaction after the other, each of which touches DAYS_AT_ONCE days at the most.

    A transaction keeps its locks to its end: that no statement touches more would not help if they were all in one.
    """

    def __init__(self, begin: Callable[[], AbstractContextManager[Session]]) -> None:
        self._begin = begin
        self._open = ExitStack()
        self._session: Session | None = None
        self._touched: frozenset[Hashable] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def close(self) -> None:
        """End the open one; the next statement begins another."""
        self._open.close()
        self._session, self._touched = None, frozenset()

    def session(self, days: Iterable[Hashable] = ()) -> Session:
        """The session for a statement that touches these days; not to be kept."""
        touched = self._touched.union(days)
        if len(touched) > DAYS_AT_ONCE:
            self.close()
            touched = frozenset(days)
        if self._session is None:
            self._session = self._open.enter_context(self._begin())
        self._touched = touched
        return self._session
