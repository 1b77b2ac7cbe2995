"""Reads the hourly counts of stored events: what the worker has folded, and the rows that are still in the outbox.

One statement, and so one snapshot, reads both: the numbers are those of the rows in `events`, however far behind the
worker is.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import DateTime, Select, Subquery, all_, any_, func, literal, select, union_all
from sqlalchemy.dialects.postgresql import ARRAY

from app.events.query.nodes import Node
from app.events.query.sql import condition
from app.events.ranges import TimeRange
from app.models import EventHour, UsageOutbox

MOMENTS: Final = ARRAY(DateTime(timezone=True))
_COLUMNS: Final = ("source_id", "source_key_id", "environment_id", "event_type", "severity")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hours:
    """Whole hours (UTC) of a project."""

    workspace_row: int
    project_row: int
    within: TimeRange
    """From the start of an hour to the start of another."""
    only: Collection[datetime] | None = None
    """The starts of those that are meant; None: all."""
    without: Collection[datetime] = ()
    """The starts of those that are not meant."""


def counted_hours(hours: Hours, node: Node) -> Subquery:
    """`hour`, `events` and what they are counted by, of the events that fulfil a query of rolled-up fields."""
    outbox_hour = func.date_trunc("hour", UsageOutbox.received_at, "UTC")
    folded = _counted(EventHour, EventHour.hour, EventHour.hour, hours, node)
    outbox = _counted(UsageOutbox, UsageOutbox.received_at, outbox_hour, hours, node)
    # Without a type it counts no stored event.
    return union_all(folded, outbox.where(UsageOutbox.event_type.is_not(None))).subquery("counted_hours")


def _counted(table: Any, moment: Any, hour: Any, hours: Hours, node: Node) -> Select[Any]:
    columns = table.__table__.c
    counted = select(hour.label("hour"), *(columns[name] for name in _COLUMNS), columns["events"]).where(
        columns["project_id"] == hours.project_row,
        columns["workspace_id"] == hours.workspace_row,
        moment >= hours.within.begin,
        moment < hours.within.end,
        condition(node, columns),
    )
    if hours.only is not None:
        counted = counted.where(hour == any_(literal(sorted(hours.only), MOMENTS)))
    if hours.without:
        counted = counted.where(hour != all_(literal(sorted(hours.without), MOMENTS)))
    return counted


def events_by_hour(hours: Hours, node: Node) -> Select[Any]:
    """How many events fulfil the query in each hour in which some do."""
    counted = counted_hours(hours, node)
    events = func.sum(counted.c.events)
    return select(counted.c.hour, events.label("events")).group_by(counted.c.hour).having(events > 0)
