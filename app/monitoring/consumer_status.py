"""How far the consumers of all workspaces are behind, for those who run the installation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated, Any, Final

import structlog
from sqlalchemy import BigInteger, Row, Uuid, and_, column, func, literal, or_, select, table, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import SQLAlchemyError

from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable
from app.events.feed.statements import Day, read_days, within
from app.events.statements import DAYS_AT_ONCE
from app.events.transactions import FewDays
from app.monitoring.metric import Metric

_log = structlog.get_logger()

_DEADLINE_SECONDS: Final = 1.0
_SECONDS_MAX: Final = 0.5
# One that is not used any more falls behind for ever.
_IN_USE: Final = timedelta(days=1)
_POSITION_MAX: Final = (1 << 63) - 1
CONSUMERS_MAX: Final = 1_000
"""Of how many the lag is read, those with the lowest positions: some milliseconds for each day that they lie in."""

# As in app/events/feed/news.py, with row security and without the view, which shows one workspace.
_EVENTS: Final = table(
    "events", column("project_id"), column("position"), column("event_uid", Uuid), column("received_at")
)
_NUMBERS: Final = text("""
    SELECT count(*) AS number, count(*) FILTER (WHERE coalesce(committed_at, created_at) <= :since) AS idle
    FROM consumers
""")
_CONSUMERS: Final = text("""
    SELECT consumer.project_id, consumer.position, consumer.event_uid, consumer.name,
        workspace.public_id AS workspace_id
    FROM consumers AS consumer JOIN workspaces AS workspace ON workspace.id = consumer.workspace_id
    WHERE coalesce(consumer.committed_at, consumer.created_at) > :since ORDER BY consumer.position LIMIT :most
""")


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerStatus:
    """The consumers of the installation at one moment.

    Their queries are not asked, unlike in app/events/consumers/lag.py: a thousand of them may have to look through
    millions of events, and who commits empty pages is not behind for what the query leaves out.
    """

    number: Annotated[int, Metric("lariba_consumers", "Consumers of all workspaces.")]
    idle: Annotated[int, Metric("lariba_consumers_idle", "Of these, those that have committed nothing for a day.")]
    lag_seconds: Annotated[
        float,
        Metric(
            "lariba_consumer_lag_seconds",
            "Of the consumers that are not idle, how old the oldest event is that one of them has not committed,"
            " whether its query admits it or not.",
        ),
    ]
    furthest_behind: str | None
    """The one with that lag, as workspace and name; None: all are up to date."""


def read_consumer_status(database: Database, now: datetime) -> ConsumerStatus | None:
    """None if it takes too long: nothing else that is monitored may depend on it."""
    begin = partial(database.transaction, TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS)
    since = now - _IN_USE
    try:
        with FewDays(begin) as transactions:
            session = transactions.session()
            numbers = session.execute(_NUMBERS, {"since": since}).one()
            consumers = session.execute(_CONSUMERS, {"since": since, "most": CONSUMERS_MAX}).all()
            oldest = _oldest_behind(transactions, consumers)
    except (StorageUnavailable, SQLAlchemyError) as error:
        _log.warning("consumers_unreadable", cause=type(error.__cause__ or error).__name__)
        return None
    if not oldest:
        return ConsumerStatus(number=numbers.number, idle=numbers.idle, lag_seconds=0.0, furthest_behind=None)
    consumer, received_at = min(oldest, key=lambda each: each[1])
    return ConsumerStatus(
        number=numbers.number,
        idle=numbers.idle,
        lag_seconds=max(0.0, (now - received_at).total_seconds()),
        furthest_behind=f"{consumer.workspace_id} {consumer.name}",
    )


def _oldest_behind(transactions: FewDays, consumers: Sequence[Row[Any]]) -> list[tuple[Row[Any], datetime]]:
    """Of each consumer that has events behind its place, when the first of them was received.

    A day that is not closed can hold any position, so all consumers are asked about it. Of the closed ones the oldest
    comes first: a consumer is asked about them until one has an event for it, and not about those before its place.
    """
    if not consumers:
        return []
    days = read_days(transactions.session(), consumers[0].position - 1)
    open_days, closed = ([day for day in days if bool(day.first_position) is is_closed] for is_closed in (False, True))
    found: dict[int, datetime] = {}
    until = time.monotonic() + _SECONDS_MAX
    for part in _parts(open_days):
        if time.monotonic() > until:
            break
        for number, received_at in _oldest_in(transactions, part, dict(enumerate(consumers))).items():
            found[number] = min(received_at, found.get(number, received_at))
    left = dict(enumerate(consumers))
    for n, part in enumerate(parts := _parts(closed)):
        # Positions grow from day to day, but for the moments around midnight.
        end = parts[n + 1][0].first_position if n + 1 < len(parts) else _POSITION_MAX
        asked = {number: row for number, row in left.items() if row.position < end}
        if time.monotonic() > until or not left:
            break
        for number, received_at in _oldest_in(transactions, part, asked).items():
            found[number] = min(received_at, found.get(number, received_at))
            del left[number]
    return [(consumers[number], received_at) for number, received_at in found.items()]


def _parts(days: list[Day]) -> list[list[Day]]:
    return [days[first : first + DAYS_AT_ONCE] for first in range(0, len(days), DAYS_AT_ONCE)]


def _oldest_in(transactions: FewDays, days: list[Day], consumers: dict[int, Row[Any]]) -> dict[int, datetime]:
    """By the consumer's number; those that have an event there."""
    if not consumers:
        return {}
    types = {"number": BigInteger, "project": BigInteger, "position": BigInteger, "uid": Uuid}
    values = zip(*((n, row.project_id, row.position, row.event_uid) for n, row in consumers.items()), strict=True)
    arrays: list[Any] = [literal(list(each), ARRAY(kind)) for each, kind in zip(values, types.values(), strict=True)]
    asked = func.unnest(*arrays).table_valued(*types).render_derived("asked")
    first = (
        select(_EVENTS.c.received_at)
        .where(
            and_(
                _EVENTS.c.project_id == asked.c.project,
                _EVENTS.c.position >= asked.c.position,
                or_(_EVENTS.c.position > asked.c.position, _EVENTS.c.event_uid > asked.c.uid),
                within(_EVENTS.c.received_at, days),
            )
        )
        .order_by(_EVENTS.c.position)
        .limit(1)
        .lateral("first")
    )
    query = select(asked.c.number, first.c.received_at)
    return {row.number: row.received_at for row in transactions.session(days).execute(query)}
