"""How far a consumer is behind: counted to a bound, and never at the price of the answer that shows it."""

import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from sqlalchemy import ColumnElement, extract, func, select

from app.database.engine import Database
from app.errors import QueryTooBroad, SchemaValidationFailed, StorageUnavailable
from app.events.consumers.domain import ConsumerView, find_consumer
from app.events.feed.cursors import Place, behind_all_of
from app.events.feed.restored import is_beyond
from app.events.feed.statements import Stretch, read_days, read_horizon
from app.events.names import resolved
from app.events.query.nodes import Node
from app.events.query.parsing import parse
from app.events.query.sql import condition
from app.events.statements import DAYS_AT_ONCE, LAG, reading
from app.events.transactions import FewDays
from app.management.common.operators import Operator
from app.management.common.views import view_of
from app.models import Consumer

EVENTS_MAX: Final = 10_000
"""How many events are looked at, admitted by the query or not."""
# Of each further statement, when they are used up: only a consumer that is weeks behind has more than two.
_EVENTS_MIN: Final = EVENTS_MAX // DAYS_AT_ONCE
_SECONDS_MAX: Final = 0.5


@dataclass(slots=True)
class Lag:
    """The events that the query admits and that are not committed."""

    events: int = 0
    is_more: bool = True
    """Whether there may be more: counting has ended before them."""
    seconds: float | None = None
    """How old the oldest of them is, by PostgreSQL's clock; 0: there is none; None: unknown, as none was found yet."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerState(ConsumerView):
    lag: Lag


def read_state(database: Database, events: Database, operator: Operator, name: str) -> ConsumerState:
    """A consumer, and how far it is behind; `events` is the database that reads them. Raises NotFound."""
    with database.transaction(operator.workspace_id) as session:
        consumer, project_id = find_consumer(session, operator, name)
    lag = read_lag(events, operator, consumer)
    return view_of(ConsumerState, consumer, project_id=project_id, lag=lag)


def read_lag(database: Database, operator: Operator, consumer: Consumer) -> Lag:
    """What can be found out in the time that there is; raises nothing."""
    lag = Lag()
    try:
        with FewDays(partial(reading, database, operator.workspace_id, LAG)) as transactions:
            _count(transactions, operator, consumer, lag)
    except (QueryTooBroad, StorageUnavailable, SchemaValidationFailed):
        # Too much, too slow, or a query whose names are gone: what has been counted until then is true.
        lag.is_more = True
    return lag


def _count(transactions: FewDays, operator: Operator, consumer: Consumer, lag: Lag) -> None:
    session = transactions.session()
    after = Place(consumer.position, consumer.event_uid)
    if is_beyond(session, after):
        return
    node = resolved(session, operator, consumer.project_id, parse(consumer.q))
    reached = behind_all_of(max(read_horizon(session, operator.workspace_id), after.position))
    days = read_days(session, after.position - 1)
    whole = Stretch(consumer.project_id, days, after, reached)
    is_more, left, until = False, EVENTS_MAX, time.monotonic() + _SECONDS_MAX
    # As a page does: what a statement leaves out lies behind all that the next ones need to look at.
    while days and days[0].first_position <= reached.position:
        if time.monotonic() > until:
            is_more = True
            break
        part, days = replace(whole, days=days[:DAYS_AT_ONCE], last=reached), days[DAYS_AT_ONCE:]
        found = _counted(transactions, part, node, left)
        lag.events = min(lag.events + found.events, EVENTS_MAX)
        if found.seconds is not None:
            lag.seconds = max(found.seconds, lag.seconds or 0.0)
        if found.last_position is not None:
            is_more, reached = True, min(reached, behind_all_of(found.last_position))
        left = max(_EVENTS_MIN, left - found.looked_at)
    lag.is_more = is_more
    if not lag.events and not is_more:
        lag.seconds = 0.0


@dataclass(frozen=True, slots=True)
class _Counted:
    looked_at: int
    events: int
    seconds: float | None
    last_position: int | None
    """Up to where it has looked, if there is more; None: to the end."""


def _counted(transactions: FewDays, part: Stretch, node: Node, most: int) -> _Counted:
    first = part.first(most + 1).subquery()
    admitted: ColumnElement[bool] = condition(node, first.c)
    oldest = func.min(first.c.received_at).filter(admitted)
    query = select(
        func.count(),
        func.count().filter(admitted),
        extract("epoch", func.clock_timestamp() - oldest),
        func.max(first.c.position),
    )
    looked_at, events, seconds, last = transactions.session(part.days).execute(query.select_from(first)).one()
    age = None if seconds is None else max(0.0, float(seconds))
    return _Counted(looked_at, events, age, last if looked_at > most else None)
