"""Counts in memory that a thread writes to PostgreSQL every two seconds, each exactly once.

A process that is killed loses the counts since its last flush; an orderly end flushes. A flush whose commit goes
unanswered neither loses counts nor doubles them: it is repeated with the uids that its counts had, by which what it
writes can be known again. The hour is by PostgreSQL's clock: the process knows how long ago it counted, and not when.
"""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from typing import ClassVar, Final, Generic, NamedTuple, TypeVar
from uuid import UUID
from weakref import WeakMethod

import structlog
from sqlalchemy.orm import Session

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.database.engine import Database, TenantScope
from app.errors import OutcomeUnknown, StorageUnavailable
from app.identifiers import uuid7

What = TypeVar("What", bound=Hashable)
Amounts = tuple[int, ...]

_log = structlog.get_logger()

FLUSH_SECONDS: Final = 2.0
# About 300 bytes each. Ten thousand credentials that are all refused reach it, or some hundred while PostgreSQL is away
# for days.
_COUNTS_MAX: Final = 10_000
# What is counted within this time counts as of its beginning. A flush ends it, so it lasts this long, and a count is
# this far from its hour, only while PostgreSQL is away.
_SPAN_SECONDS: Final = 900.0
# Of the transaction of one flush.
_DEADLINE_SECONDS: Final = 3.0
REPEAT_SECONDS: Final = 60.0
"""How old a count may be for its flush to be repeated. The worker leaves refusals in the outbox until they are two
minutes old (REPEATABLE in app/maintenance/usage.py), and PostgreSQL ends a statement after 30 seconds."""


@dataclass(frozen=True, slots=True)
class Count(Generic[What]):
    """How much there was of one thing."""

    what: What
    amounts: Amounts
    since: float
    """In time.monotonic() seconds."""
    uid: UUID
    """Made once: a repetition of its flush has the same."""


Flush = Sequence[Count[What]]
"""Counts on their way to PostgreSQL; at least one."""


class Names(NamedTuple):
    """What the log and the process call these counts."""

    thread: str
    amounts: tuple[str, ...]
    not_counted: str
    """The log's event for what was beyond the bound of the memory."""
    perhaps_not_counted: str
    """The log's event for a flush that was given up."""


class FlushedCounts(ABC, Generic[What]):
    """The counts of one process; the first one starts the thread that flushes, also in each forked child."""

    _names: ClassVar[Names]

    def __init__(
        self,
        database: Database,
        *,
        flush_seconds: float | None = FLUSH_SECONDS,
        counts_max: int = _COUNTS_MAX,
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        """With `flush_seconds` None, only calls of `flush` write."""
        self._database = database
        self._counts_max = counts_max
        self._repeat_seconds = repeat_seconds
        self._background: Background | None = None
        if flush_seconds is not None:
            self._background = Background(
                self.flush, name=self._names.thread, pause_seconds=flush_seconds, pause_seconds_min=flush_seconds
            )
        self._reset()
        reset_after_fork(self, type(self)._reset)  # noqa: SLF001 - a subclass has more to reset

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._counts: dict[tuple[What, float], Amounts] = {}
        self._not_counted: list[Amounts] = []
        """Their sum since the last flush, if there is one."""
        self._since = 0.0
        self._unanswered: Flush[What] | None = None

    @abstractmethod
    def _write(self, session: Session, flush: Flush[What]) -> None:
        """Write the counts, unless a try before has written them."""

    def _add(self, additions: Iterable[tuple[What, Amounts]]) -> None:
        now = time.monotonic()
        with self._mutex:
            if not self._counts or now - self._since > _SPAN_SECONDS:
                self._since = now
            for what, amounts in additions:
                self._keep((what, self._since), amounts)
        if self._background and not self._background.is_running and self._background.start():
            # Not atexit, which a server's forked worker never reaches; for this process only, so not in __init__.
            Finalize(None, _call, args=(WeakMethod(self.flush),), exitpriority=0)

    def flush(self) -> None:
        """Write the counts; while PostgreSQL is away they stay in memory."""
        with self._flushing:
            if self._unanswered and _age(self._unanswered) > self._repeat_seconds:
                self._say(self._names.perhaps_not_counted, [count.amounts for count in self._unanswered])
                self._unanswered = None
            if self._unanswered:
                self._try(self._unanswered)
                if self._unanswered:
                    return
            with self._mutex:
                counts, self._counts = self._counts, {}
                not_counted, self._not_counted = self._not_counted, []
            if not_counted:
                self._say(self._names.not_counted, not_counted)
            if counts:
                self._try([Count(what, amounts, since, uuid7()) for (what, since), amounts in counts.items()])

    def _try(self, flush: Flush[What]) -> None:
        try:
            with self._database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
                self._write(session, flush)
        except OutcomeUnknown:
            self._unanswered = flush
        except StorageUnavailable:
            self._put_back(flush)
        except BaseException:
            self._put_back(flush)
            raise
        else:
            self._unanswered = None

    def _put_back(self, flush: Flush[What]) -> None:
        if flush is self._unanswered:
            return  # a repetition stored nothing, but the first try may have
        with self._mutex:
            for count in flush:
                self._keep((count.what, count.since), count.amounts)

    def _keep(self, key: tuple[What, float], amounts: Amounts) -> None:
        kept = self._counts.get(key)
        if kept is not None or len(self._counts) < self._counts_max:
            self._counts[key] = amounts if kept is None else _sum((kept, amounts))
        else:
            # No line here: it would be written under the mutex, for each request, and on an event loop.
            self._not_counted = [_sum((*self._not_counted, amounts))]

    def _say(self, event: str, amounts: Iterable[Amounts]) -> None:
        _log.warning(event, **dict(zip(self._names.amounts, _sum(amounts), strict=True)))


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    return tuple(map(sum, zip(*amounts, strict=True)))


def _age(flush: Flush[What]) -> float:
    """Of its oldest count, in seconds."""
    return time.monotonic() - min(count.since for count in flush)


def _call(reference: WeakMethod[Callable[[], None]]) -> None:
    if (method := reference()) is not None:
        method()
