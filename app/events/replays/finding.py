"""Finds out what the query of a replay means at one moment, for good."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import NotFound, QueryTooBroad, SchemaValidationFailed
from app.events.counts.buckets import Interval
from app.events.counts.domain import CountsRequest, count_events
from app.events.feed.statements import read_horizon as read_last_position
from app.events.names import find_project, known_names
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.query.resolution import KnownNames, bound
from app.events.ranges import Bound, TimeRange, frozen_range
from app.events.search import read_horizon
from app.events.statements import SEARCH, reading
from app.management.common.operators import Operator


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayQuery:
    """Which events."""

    project_id: str
    q: str = ""
    begin: Bound | None = None
    end: Bound | None = None


@dataclass(frozen=True, slots=True)
class FoundQuery:
    """What can be replayed: no event comes to it any more."""

    project_row: int
    normalized: str
    names: KnownNames
    """What the names in it mean."""
    range: TimeRange
    last_position: int
    """In the order of the feed, of what was received in the range, or behind it."""
    count: int | None
    """None: too many events would have to be read to count them."""


def find_query(database: Database, operator: Operator, query: ReplayQuery) -> FoundQuery:
    """Raises SchemaValidationFailed, NotFound and QueryTooBroad, each with its place in the body."""
    with of_query():
        node = parse(query.q)
        count, received = _count(database, operator, query)
        with reading(database, operator.workspace_id, SEARCH) as session:
            project = find_project(session, operator, query.project_id)
            known = known_names(session, operator, project.id, node)
            bound(node, known)
            received = received or _freeze(session, operator, query)
            # After the range was frozen: what was received in it had got its position by then.
            last_position = read_last_position(session, operator.workspace_id)
    return FoundQuery(project.id, print_query(node), known, received, last_position, count)


def _count(database: Database, operator: Operator, query: ReplayQuery) -> tuple[int | None, TimeRange | None]:
    asked = CountsRequest(
        project_id=query.project_id,
        q=query.q,
        begin=query.begin,
        end=query.end,
        interval=Interval.MONTH,  # of whole hours, which are counted already
    )
    try:
        counted = count_events(database, operator, asked)
    except QueryTooBroad:
        return None, None
    return counted.total, counted.range


def _freeze(session: Session, operator: Operator, query: ReplayQuery) -> TimeRange:
    return frozen_range(query.begin, query.end, read_horizon(session, operator))


@contextmanager
def of_query() -> Iterator[None]:
    """Names what is wrong with a query by its place in the body."""
    try:
        yield
    except (SchemaValidationFailed, NotFound) as refusal:
        faults = tuple(replace(fault, pointer=f"/query{fault.pointer}") for fault in refusal.faults)
        raise type(refusal)(refusal.message, faults=faults) from None
