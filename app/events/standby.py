"""Reads events on a standby, where it is sure to hold all that the primary would show (docs/decisions/0026).

On a standby no lock of the primary can be seen, so only the primary says which range is final. Its log says, by a place
in it, what a standby must have replayed before it may answer for that range.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Final, NamedTuple, TypeVar

import structlog
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.database.engine import Database, TenantScope
from app.database.replication import LOG_MARK, REPLAYED, LogMark, Replayed
from app.database.unfinished import OLDEST_UNFINISHED
from app.errors import StorageUnavailable
from app.events.transactions import FewDays
from app.telemetry import metrics

Answer = TypeVar("Answer")
Begin = Callable[[Database], AbstractContextManager[Session]]
"""Begins a transaction that reads events."""

PROGRAM: Final = "lariba-standby"
_LOOK_SECONDS: Final = 1.0
_DEADLINE_SECONDS: Final = 1.0
# How long a request waits for the standby to replay what the primary has just shown: some milliseconds, as a rule.
_WAIT_SECONDS: Final = 0.2
_POLL_SECONDS: Final = 0.005
_CLOCK: Final = "SELECT clock_timestamp()"

_log = structlog.get_logger()


class _Behind(Exception):  # noqa: N818 - nothing is wrong: the primary answers
    """The standby has not replayed what it would have to show."""


class _Beat(NamedTuple):
    """What the primary said at one look."""

    at: float
    """time.monotonic() seconds, before it was asked."""
    complete_until: datetime
    """All that was received before is in the log up to the mark."""
    mark: LogMark


class Needed(NamedTuple):
    """What a transaction on the standby must find there."""

    mark: LogMark
    started_at: datetime
    """The server's own: the transactions of one answer see one state after the other, and never an earlier one."""


class Standby:
    """A standby, and whether it is asked. A thread compares it with the primary once a second."""

    def __init__(self, database: Database, *, watched: tuple[Database, Database], lag_seconds_max: float) -> None:
        """`database` is the pool for requests; `watched` are the primary and the standby, a connection to each."""
        self.databases: Final = (database, *watched)
        self._database = database
        self._primary, self._standby = watched
        self._lag_seconds_max = lag_seconds_max
        self._background = Background(
            self.look, name="standby", pause_seconds=_LOOK_SECONDS, pause_seconds_min=_LOOK_SECONDS / 2
        )
        self._reset()
        reset_after_fork(self, Standby._reset)

    def _reset(self) -> None:
        self._beats: deque[_Beat] = deque(maxlen=round(self._lag_seconds_max / _LOOK_SECONDS) + 5)
        self._began: float | None = None
        self._reached: _Beat | None = None
        self._used: tuple[_Beat, datetime] | None = None
        self.cause: str | None = None
        """Why the standby is not to be asked, as it was found at the last look."""

    def needed_for(self, end: datetime, session: Callable[[], Session]) -> Needed | None:
        """What the standby needs to show all that was received before `end`; None: it is not to be asked.

        `session` is one of the primary, to which all of that is visible.
        """
        self._background.start()
        if (used := self._used) is None:
            return None
        beat, started_at = used
        if time.monotonic() - beat.at > self._lag_seconds_max:
            return None
        if end <= beat.complete_until:
            return Needed(beat.mark, started_at)
        row = session().execute(text(LOG_MARK)).one()
        return None if row.place is None else Needed(LogMark(*row), started_at)

    @contextmanager
    def reading(self, begin: Begin, needed: Needed) -> Iterator[Session]:
        """A transaction on the standby that sees what is needed; raises _Behind.

        Each transaction asks: several servers may be behind one name.
        """
        with begin(self._database) as session:
            until = time.monotonic() + _WAIT_SECONDS
            while not (replayed := Replayed(*session.execute(text(REPLAYED)).one())).has(needed.mark):
                if replayed.started_at != needed.started_at or time.monotonic() >= until:
                    raise _Behind
                time.sleep(_POLL_SECONDS)
            if replayed.started_at != needed.started_at:
                raise _Behind
            yield session

    def look(self) -> None:
        """Compare the two, and say so where it begins or ends that the primary answers instead.

        The thread does so once a second.
        """
        self._began = self._began or time.monotonic()
        with suppress(StorageUnavailable):
            self._beats.append(self._read_beat())
        replayed: Replayed | None = None
        with suppress(StorageUnavailable), _looking_at(self._standby) as session:
            replayed = Replayed(*session.execute(text(REPLAYED)).one())
        reached = [beat for beat in self._beats if replayed and replayed.has(beat.mark)]
        self._reached = reached[-1] if reached else self._reached
        lag = time.monotonic() - (self._reached.at if self._reached else self._began)
        cause = self._cause_against(replayed, lag)
        self._used = (self._reached, replayed.started_at) if self._reached and replayed and cause is None else None
        metrics.STANDBY_USED.labels(PROGRAM).set(self._used is not None)
        metrics.STANDBY_LAG_SECONDS.labels(PROGRAM).set(lag)
        if cause is not None and self.cause is None:
            _log.warning("standby_not_read", cause=cause, lag_seconds=round(lag, 1))
        elif cause is None and self.cause is not None:
            _log.info("standby_read_again", lag_seconds=round(lag, 1))
        self.cause = cause

    def _cause_against(self, replayed: Replayed | None, lag: float) -> str | None:
        """Why the standby is not to be asked."""
        if replayed is None:
            return "away"
        if not replayed.is_standby:
            return "no_standby"
        newest = self._beats[-1].mark if self._beats else None
        if newest is not None and replayed.database != newest.database:
            return "another_database"
        if newest is not None and replayed.timeline != newest.timeline:
            return "another_timeline"
        if replayed.is_paused:
            return "paused"
        return "lags" if lag > self._lag_seconds_max else None

    def _read_beat(self) -> _Beat:
        """The clock before the locks, and these before the place in the log: see OLDEST_UNFINISHED."""
        at = time.monotonic()
        with _looking_at(self._primary) as session:
            clock = session.execute(text(_CLOCK)).scalar_one()
            oldest = session.execute(text(OLDEST_UNFINISHED)).scalar_one()
            mark = session.execute(text(LOG_MARK)).one()
        if mark.place is None:
            raise StorageUnavailable
        return _Beat(at, min(clock, oldest or clock), LogMark(*mark))


def _looking_at(database: Database) -> AbstractContextManager[Session]:
    return database.transaction(TenantScope.NONE, deadline_seconds=_DEADLINE_SECONDS)


def read_up_to(
    end: datetime, read: Callable[[FewDays], Answer], transactions: FewDays, standby: Standby | None, begin: Begin
) -> Answer:
    """What `read` finds of events that were received before `end`; on the standby, if it is there and holds them all.

    `transactions` are those of the primary, to which all of them are visible: they answer whatever keeps the standby
    from it: a query that it cancels, or a connection that it ends, is no error of the request.
    """
    if standby is None:
        return read(transactions)
    needed = standby.needed_for(end, transactions.session)
    answered_by = "primary"
    if needed is not None:
        transactions.close()
        try:
            with FewDays(partial(standby.reading, begin, needed)) as on_standby:
                answer = read(on_standby)
        except _Behind:
            answered_by = "primary_standby_behind"
        except (StorageUnavailable, DBAPIError) as error:
            # Without a cause it is our own refusal: who has had a share of the standby takes none of the primary.
            if isinstance(error, StorageUnavailable) and error.__cause__ is None:
                raise
            answered_by = "primary_standby_failed"
        else:
            metrics.STANDBY_READS.labels("standby").inc()
            return answer
    metrics.STANDBY_READS.labels(answered_by).inc()
    return read(transactions)
