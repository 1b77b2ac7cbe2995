"""Copies the history of a workspace in rounds, while it goes on: each round what has come since the one before.

What is final is compared by count and digest, hour by hour, and an hour that differs is copied anew. The first round of
each try compares all, so nothing has to be remembered of a try that was cut off.
"""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from psycopg import sql

from app.cells.moving.tables import HISTORIES, Connection, History, Origin, Scope, copy_rows, differing, digests
from app.maintenance.partitions import attached_partitions

# The horizon is exact for events. But a batch claims its Idempotency-Key before it takes part in the horizon, and what
# is received after PostgreSQL's clock was set back seems older: by four seconds it may be set.
_OVERLAP: Final = timedelta(seconds=5)
_CLOCK_SLACK: Final = timedelta(seconds=1)
# What a process has counted of reads is written within seconds, for the hour in which they were; an audit entry with
# the commit of its change.
_NOTES_OVERLAP: Final = timedelta(hours=1)
# Of the time that a copy took: the neighbours in both cells have the rest.
_RESTS: Final = 0.5
_HORIZON: Final = "SELECT moment, clock_timestamp() FROM event_horizon(%s)"
_CLOCK: Final = "SELECT clock_timestamp()"
# What is folded later belongs to these hours, or to later ones.
_OLDEST_TO_FOLD: Final = "SELECT min(received_at) FROM usage_outbox WHERE project_id = ANY (%s)"
# The records have no index by the moment of their creation, but one by that of their end.
_RECORDS_LIVE: Final = "SELECT min(expires_at - created_at) FROM idempotency_records WHERE project_id = ANY (%s)"
# What is repeated after its life is another row with the same key; and what purges delete is not looked for anew.
_FORGET_RECORDS: Final = "DELETE FROM idempotency_records WHERE project_id = ANY (%s) AND expires_at <= %s"
_FORGET_EVENT_IDS: Final = "DELETE FROM event_ledger WHERE project_id = ANY (%s) AND received_at <= %s"
_MAKE_DAY: Final = "SELECT make_event_partitions(%s, 1)"
_TRIES: Final = 5


class ClockSetError(Exception):
    """PostgreSQL's clock was set while the workspace was being copied."""


class StillDifferentError(Exception):
    """A part could not be made equal; the message says which."""


class Durations(NamedTuple):
    """Of the old cell, by its settings."""

    records: timedelta
    """For how long an Idempotency-Key is remembered."""
    event_ids: timedelta
    """For how long an event id is."""
    batch: timedelta
    """Between the claim of a batch and its commit, at the most."""


class Copier:
    """Of one workspace, from one cell to another."""

    def __init__(self, source: Connection, target: Connection, durations: Durations) -> None:
        self._source = source
        self._target = target
        self._durations = durations
        self._clock_ahead = timedelta.min
        """How far PostgreSQL's clock was ahead of the monotonic one, at the most."""
        self._since: datetime | None = None
        self._folded_since: datetime | None = None
        self.rows = 0
        """How many rows have been copied so far."""

    def round(self, scope: Scope) -> None:
        """Make equal all that is final and may have changed since the round before; in the first one, all of it.

        Raises StillDifferentError.
        """
        projects = [list(scope.projects)]
        ((until, now),) = self._source.execute(_HORIZON, [scope.workspace]).fetchall()
        self._clock_ahead = max(self._clock_ahead, _ahead(now))
        ((oldest,),) = self._source.execute(_OLDEST_TO_FOLD, projects).fetchall()
        ((live,),) = self._source.execute(_RECORDS_LIVE, projects).fetchall()
        self._make_days()
        self._forget(scope, now)
        for history in HISTORIES:
            for begin, end in self._ranges(history, until):
                self._equalise(scope, history, history.between(begin, end))
        self._since = until - _OVERLAP - self._durations.batch
        self._folded_since = min(self._since, oldest or until)
        records = min(self._durations.records, live or self._durations.records)
        self._durations = self._durations._replace(records=records)

    def rest(self, snapshot: Connection, scope: Scope) -> datetime:
        """Copy all that has come since the last round, as `snapshot` has it, in the target's current transaction.

        Returns since when. There must have been a round. Raises StillDifferentError, and ClockSetError.
        """
        since, now = self._since, self._read_steady_clock(snapshot)
        if since is None:
            raise ValueError("there was no round")
        self._forget(scope, now)
        for history in HISTORIES:
            if history.origin is Origin.BUILT:
                continue
            range_ = history.between(self._begin(history), None)
            if history.ends is not None:
                ends, soonest = sql.Identifier(history.ends), sql.Literal(since + self._durations.records)
                range_ = sql.SQL("{} AND {} >= {}").format(range_, ends, soonest)
            for begins in self._differing(snapshot, scope, history, range_):
                part = history.slice(begins, range_)
                self.rows += copy_rows(snapshot, self._target, scope, history.name, part)
            if self._differing(snapshot, scope, history, range_):
                raise StillDifferentError(history.name)
        return since

    def _read_steady_clock(self, source: Connection) -> datetime:
        ((now,),) = source.execute(_CLOCK).fetchall()
        if self._clock_ahead - _ahead(now) > _OVERLAP - _CLOCK_SLACK:
            raise ClockSetError
        moment: datetime = now
        return moment

    def _forget(self, scope: Scope, now: datetime) -> None:
        projects = list(scope.projects)
        self._target.execute(_FORGET_RECORDS, [projects, now])
        self._target.execute(_FORGET_EVENT_IDS, [projects, now - self._durations.event_ids])

    def _ranges(self, history: History, until: datetime) -> Iterator[tuple[datetime | None, datetime]]:
        begin = self._begin(history)
        if history.origin is Origin.BUILT and self._since is not None:
            return
        if begin is None and history.is_large:
            for partition in attached_partitions(self._source):
                if partition.end < until:
                    yield begin, partition.end
                    begin = partition.end
        yield begin, until

    def _begin(self, history: History) -> datetime | None:
        """Before this nothing has changed since the last round; None: all is to be compared."""
        if self._since is None or self._folded_since is None:
            return None
        match history.origin:
            case Origin.STORED:
                return self._since
            case Origin.FOLDED:
                return _hour(self._folded_since)
            case Origin.NOTED:
                return _hour(self._since - _NOTES_OVERLAP)
            case Origin.BUILT:
                return None  # in the first round; its index takes longer to write than a workspace may wait

    def _make_days(self) -> None:
        """The target needs a partition for each day that the source has, or all would go to the default one."""
        there = set(attached_partitions(self._target))
        for partition in attached_partitions(self._source):
            if partition not in there:
                self._target.execute(_MAKE_DAY, [partition.day])

    def _equalise(self, scope: Scope, history: History, range_: sql.Composable) -> None:
        for _ in range(_TRIES):
            slices = self._differing(self._source, scope, history, range_)
            if not slices:
                return
            for begins in slices:
                began = time.monotonic()
                with self._target.transaction():
                    part = history.slice(begins, range_)
                    self.rows += copy_rows(self._source, self._target, scope, history.name, part)
                time.sleep(_RESTS * (time.monotonic() - began))
            if history.origin is not Origin.STORED:
                return  # it goes on being changed; the last part compares
        raise StillDifferentError(f"{history.name} of {slices[0]:%Y-%m-%dT%H:%MZ}")

    def _differing(self, source: Connection, scope: Scope, history: History, range_: sql.Composable) -> list[Any]:
        return differing(*(digests(each, scope, history, range_) for each in (source, self._target)))


def _hour(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def _ahead(now: datetime) -> timedelta:
    """How far PostgreSQL's clock is ahead of the monotonic one; only differences mean anything."""
    return now - datetime.fromtimestamp(time.monotonic(), UTC)
