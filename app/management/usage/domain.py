"""Counts of events per hour or day, by key, source or project.

One statement, and so one snapshot, counts the hours that the worker has folded and the rows that are still in the
outbox: the numbers are exact at any moment, however far behind the worker is.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row, Select, Subquery, case, func, null, select, union_all
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import Fault, NotFound, SchemaValidationFailed
from app.management.common.hierarchy import projects_within
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.models import Project, Source, SourceKey, UsageHour, UsageOutbox
from app.models.base import WithinWorkspace

COUNTS_MAX: Final = 2_000
_TOO_MANY: Final = (
    f"The answer would hold more than {COUNTS_MAX} counts. Ask for a shorter time, for interval=day,"
    " for group_by=none, or for one project_id, source_id or key_id."
)
_ACCEPTED: Final = ("stored", "duplicate", "replayed")


class Interval(StrEnum):
    """What is counted together; hours and days of UTC."""

    HOUR = "hour"
    DAY = "day"

    @property
    def length(self) -> timedelta:
        return timedelta(days=1) if self is Interval.DAY else timedelta(hours=1)

    @property
    def usual_range(self) -> timedelta:
        """How far back a response goes by default."""
        return timedelta(days=30) if self is Interval.DAY else timedelta(hours=24)

    def start_of(self, moment: datetime) -> datetime:
        """The start of the interval that `moment` lies in."""
        start = moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
        return start.replace(hour=0) if self is Interval.DAY else start


class Grouping(StrEnum):
    """What counts are grouped by."""

    KEY = "key"
    SOURCE = "source"
    PROJECT = "project"
    NONE = "none"


# The column of the usage tables that holds the inner id, the model, and the model's column with that of its project.
_GROUPS: Final[dict[Grouping, tuple[str, type[WithinWorkspace], Any]]] = {
    Grouping.KEY: ("source_key_id", SourceKey, SourceKey.project_id),
    Grouping.SOURCE: ("source_id", Source, Source.project_id),
    Grouping.PROJECT: ("project_id", Project, Project.id),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class UsageQuery:
    """Which counts a response has; None for an id: those of all."""

    begin: datetime
    """The start of an interval."""
    end: datetime
    """Exclusive: the start of an interval."""
    interval: Interval
    group_by: Grouping = Grouping.NONE
    project_id: str | None = None
    source_id: str | None = None
    key_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    stored: int
    duplicate: int
    replayed: int
    rejected: Mapping[str, int]
    """By the code of the refusal."""
    payload_bytes: int
    """Of those that were stored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountsOfInterval(Counts):
    """The counts of one interval and one group."""

    start: datetime
    group: Mapping[str, str]
    """`{"key_id": …}`, `{"source_id": …}`, `{"project_id": …}`, or nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """The counts that are not zero, by start and then by id, and their sums."""

    begin: datetime
    end: datetime
    interval: Interval
    group_by: Grouping
    data: tuple[CountsOfInterval, ...]
    total: Counts


def aligned(begin: datetime | None, end: datetime, interval: Interval) -> tuple[datetime, datetime]:
    """The whole intervals from `begin` to `end`; a `begin` of None is `end` less the interval's usual range.

    Raises SchemaValidationFailed if they are not in order.
    """
    begin = end - interval.usual_range if begin is None else begin
    if begin >= end:
        raise SchemaValidationFailed(faults=(Fault("/from", "Must be before `to`."),))
    start = interval.start_of(end)
    return interval.start_of(begin), start if start == end else start + interval.length


def read_usage(database: Database, operator: Operator, query: UsageQuery) -> Usage:
    """The counts that `query` asks for.

    Raises SchemaValidationFailed if there are more than COUNTS_MAX, and NotFound for an id beyond the caller's reach.
    Archived and revoked objects are counted too.
    """
    with database.transaction(operator.workspace_id) as session:
        rows = session.execute(_counted(operator, query, _only(session, operator, query))).all()
    if len(rows) > COUNTS_MAX:
        raise SchemaValidationFailed(faults=(Fault("/from", _TOO_MANY),))
    data = sorted((_of_interval(row, query) for row in rows), key=lambda it: (it.start, *it.group.values()))
    return Usage(
        begin=query.begin,
        end=query.end,
        interval=query.interval,
        group_by=query.group_by,
        data=tuple(data),
        total=_sum(data),
    )


def _only(session: Session, operator: Operator, query: UsageQuery) -> dict[str, int]:
    """The rows of the objects that the query names, by the column of the usage tables that holds them."""
    rows = {}
    for grouping, (column, model, project_row) in _GROUPS.items():
        public_id = getattr(query, f"{grouping}_id")
        if public_id is None:
            continue
        within = model.within(operator.workspace_id).where(operator.reaches(project_row))
        try:
            (found,) = find(session, within, public_id)
        except NotFound:
            raise NotFound(faults=(Fault(f"/{grouping}_id", "There is nothing with this id."),)) from None
        rows[column] = found.id
    return rows


def _counted(operator: Operator, query: UsageQuery, only: Mapping[str, int]) -> Select[Any]:
    """One row per interval and group, with its events by outcome; COUNTS_MAX + 1 rows if there are too many."""
    used = _used(operator, query, only)
    start = func.date_trunc(query.interval.value, used.c.hour, "UTC").label("start")
    groups = [] if query.group_by is Grouping.NONE else [used.c[_GROUPS[query.group_by][0]]]
    stored_bytes = case((used.c.outcome == "stored", used.c.payload_bytes), else_=0)
    by_outcome = (
        select(
            start,
            (groups[0] if groups else null()).label("row"),
            used.c.outcome,
            func.sum(used.c.events).label("events"),
            func.sum(stored_bytes).label("payload_bytes"),
        )
        .group_by(start, *groups, used.c.outcome)
        .subquery()
    )
    counted = (
        select(
            by_outcome.c.start,
            by_outcome.c.row,
            func.jsonb_object_agg(by_outcome.c.outcome, by_outcome.c.events).label("events"),
            func.sum(by_outcome.c.payload_bytes).label("payload_bytes"),
        )
        .group_by(by_outcome.c.start, by_outcome.c.row)
        .limit(COUNTS_MAX + 1)
        .subquery()
    )
    return _named(operator, query.group_by, counted)


def _named(operator: Operator, group_by: Grouping, counted: Subquery) -> Select[Any]:
    """With the public ids of the groups instead of their rows."""
    numbers = (counted.c.start, counted.c.events, counted.c.payload_bytes)
    if group_by is Grouping.NONE:
        return select(*numbers, null().label("public_id"))
    model = _GROUPS[group_by][1]
    names = model.within(operator.workspace_id).with_only_columns(model.id, model.public_id).subquery()
    return select(*numbers, names.c.public_id).join_from(counted, names, names.c.id == counted.c.row)


def _used(operator: Operator, query: UsageQuery, only: Mapping[str, int]) -> Subquery:
    """The folded hours, by ix_usage_hours_hour or the primary key, and the rows of the outbox."""
    within = projects_within(operator).with_only_columns(Project.id)

    def of(table: Any, moment: Any, hour: Any) -> Select[Any]:
        columns = (table.project_id, table.source_id, table.source_key_id, hour.label("hour"))
        return select(*columns, table.outcome, table.events, table.payload_bytes).where(
            table.project_id.in_(within),
            *(getattr(table, column) == row for column, row in only.items()),
            moment >= query.begin,
            moment < query.end,
        )

    outbox_hour = func.date_trunc("hour", UsageOutbox.received_at, "UTC")
    return union_all(
        of(UsageHour, UsageHour.hour, UsageHour.hour), of(UsageOutbox, UsageOutbox.received_at, outbox_hour)
    ).subquery()


def _of_interval(row: Row[Any], query: UsageQuery) -> CountsOfInterval:
    events = dict(row.events)
    return CountsOfInterval(
        start=row.start,
        group={} if row.public_id is None else {f"{query.group_by}_id": row.public_id},
        stored=events.pop("stored", 0),
        duplicate=events.pop("duplicate", 0),
        replayed=events.pop("replayed", 0),
        rejected=dict(sorted(events.items())),
        payload_bytes=int(row.payload_bytes),
    )


def _sum(counts: Iterable[Counts]) -> Counts:
    total: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for each in counts:
        total.update({name: getattr(each, name) for name in (*_ACCEPTED, "payload_bytes")})
        rejected.update(each.rejected)
    return Counts(
        stored=total["stored"],
        duplicate=total["duplicate"],
        replayed=total["replayed"],
        rejected=dict(sorted(rejected.items())),
        payload_bytes=total["payload_bytes"],
    )
