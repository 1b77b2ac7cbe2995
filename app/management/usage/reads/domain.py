"""Counts of what was read per hour or day, by token, project or operation."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Row, Select, func, null, outerjoin, select
from sqlalchemy.orm import Session

from app.counting.reads import ANSWERED, BROKEN_OFF
from app.database.engine import Database
from app.errors import Fault, NotFound, SchemaValidationFailed
from app.management.common.hierarchy import projects_within
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.management.tokens.domain import visible_tokens
from app.management.usage.domain import COUNTS_MAX, Interval
from app.models import ManagementToken, Project, ReadHour

_TOO_MANY: Final = (
    f"The answer would hold more than {COUNTS_MAX} counts. Ask for a shorter time, for interval=day,"
    " for group_by=none, or for one project_id or token_id."
)


class ReadGrouping(StrEnum):
    """What counts of reads are grouped by."""

    TOKEN = "token"  # noqa: S105 - no secret
    PROJECT = "project"
    OPERATION = "operation"
    NONE = "none"

    @property
    def member(self) -> str:
        """The member of a count that names its group."""
        return self.value if self is ReadGrouping.OPERATION else f"{self.value}_id"


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadsQuery:
    """Which counts a response has; None for an id: those of all."""

    begin: datetime
    """The start of an interval."""
    end: datetime
    """Exclusive: the start of an interval."""
    interval: Interval
    group_by: ReadGrouping = ReadGrouping.NONE
    project_id: str | None = None
    token_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadCounts:
    answered: int
    """Requests that were not refused."""
    broken_off: int
    """Of these, how many responses ended before their end."""
    rejected: Mapping[str, int]
    """Requests by the code of the refusal."""
    events: int
    """How many events the responses showed."""
    body_bytes: int
    """Of the responses that were not refused, before compression."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadCountsOfInterval(ReadCounts):
    """The counts of one interval and one group."""

    start: datetime
    group: Mapping[str, str | None]
    """`{"token_id": …}`, `{"project_id": …}`, `{"operation": …}`, or nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadUsage:
    """The counts that are not zero, by start and then by group, and their sums."""

    begin: datetime
    end: datetime
    interval: Interval
    group_by: ReadGrouping
    data: tuple[ReadCountsOfInterval, ...]
    total: ReadCounts


def count_reads(database: Database, operator: Operator, query: ReadsQuery) -> ReadUsage:
    """The counts that `query` asks for.

    Raises SchemaValidationFailed if there are more than COUNTS_MAX, and NotFound for an id beyond the caller's reach.
    Archived projects and revoked tokens are counted too.
    """
    with database.transaction(operator.workspace_id) as session:
        rows = session.execute(_counted(operator, query, _only(session, operator, query))).all()
    if len(rows) > COUNTS_MAX:
        raise SchemaValidationFailed(faults=(Fault("/from", _TOO_MANY),))
    data = sorted((_of_interval(row, query) for row in rows), key=_place_of)
    return ReadUsage(
        begin=query.begin,
        end=query.end,
        interval=query.interval,
        group_by=query.group_by,
        data=tuple(data),
        total=_sum(data),
    )


def _only(session: Session, operator: Operator, query: ReadsQuery) -> dict[Any, int]:
    """The rows of the objects that the query names, by the column that holds them."""
    named = (
        (ReadHour.project_id, "project_id", query.project_id, projects_within(operator)),
        (ReadHour.token_id, "token_id", query.token_id, visible_tokens(operator)),
    )
    rows = {}
    for column, name, public_id, within in named:
        if public_id is None:
            continue
        try:
            found, *_ = find(session, within, public_id)
        except NotFound:
            raise NotFound(faults=(Fault(f"/{name}", "There is nothing with this id."),)) from None
        rows[column] = found.id
    return rows


def _counted(operator: Operator, query: ReadsQuery, only: Mapping[Any, int]) -> Select[Any]:
    """One row per interval and group, with its requests by outcome; COUNTS_MAX + 1 rows if there are too many.

    By ix_read_hours_hour or the primary key.
    """
    start = func.date_trunc(query.interval.value, ReadHour.hour, "UTC").label("start")
    group, source = _grouped(operator, query.group_by)
    by_outcome = (
        select(
            start,
            group.label("name"),
            ReadHour.outcome,
            func.sum(ReadHour.requests).label("requests"),
            func.sum(ReadHour.events).label("events"),
            func.sum(ReadHour.body_bytes).label("body_bytes"),
        )
        .select_from(source)
        .where(
            ReadHour.workspace_id == operator.workspace_id,
            operator.reaches(ReadHour.project_id),
            *(column == row for column, row in only.items()),
            ReadHour.hour >= query.begin,
            ReadHour.hour < query.end,
        )
        .group_by("start", "name", ReadHour.outcome)
        .subquery()
    )
    return (
        select(
            by_outcome.c.start,
            by_outcome.c.name,
            func.jsonb_object_agg(by_outcome.c.outcome, by_outcome.c.requests).label("requests"),
            func.sum(by_outcome.c.events).label("events"),
            func.sum(by_outcome.c.body_bytes).label("body_bytes"),
        )
        .group_by(by_outcome.c.start, by_outcome.c.name)
        .limit(COUNTS_MAX + 1)
    )


def _grouped(operator: Operator, group_by: ReadGrouping) -> tuple[Any, Any]:
    """The name of a group, and what to select from: a name that the caller does not see is NULL."""
    if group_by is ReadGrouping.OPERATION:
        return ReadHour.operation, ReadHour
    if group_by is ReadGrouping.NONE:
        return null(), ReadHour
    if group_by is ReadGrouping.TOKEN:
        seen = visible_tokens(operator).with_only_columns(ManagementToken.id, ManagementToken.public_id)
    else:
        seen = projects_within(operator).with_only_columns(Project.id, Project.public_id)
    names = seen.subquery()
    row = ReadHour.token_id if group_by is ReadGrouping.TOKEN else ReadHour.project_id
    return names.c.public_id, outerjoin(ReadHour, names, names.c.id == row)


def _of_interval(row: Row[Any], query: ReadsQuery) -> ReadCountsOfInterval:
    requests = dict(row.requests)
    return ReadCountsOfInterval(
        start=row.start,
        group={} if query.group_by is ReadGrouping.NONE else {query.group_by.member: row.name},
        answered=requests.pop(ANSWERED, 0),
        broken_off=requests.pop(BROKEN_OFF, 0),
        rejected=dict(sorted(requests.items())),
        events=int(row.events),
        body_bytes=int(row.body_bytes),
    )


def _place_of(counts: ReadCountsOfInterval) -> tuple[datetime, bool, str]:
    """What has no name comes last."""
    name = next(iter(counts.group.values()), None)
    return counts.start, name is None, name or ""


def _sum(counts: Iterable[ReadCounts]) -> ReadCounts:
    total: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for each in counts:
        total.update({name: getattr(each, name) for name in ("answered", "broken_off", "events", "body_bytes")})
        rejected.update(each.rejected)
    return ReadCounts(
        answered=total["answered"],
        broken_off=total["broken_off"],
        rejected=dict(sorted(rejected.items())),
        events=total["events"],
        body_bytes=total["body_bytes"],
    )
