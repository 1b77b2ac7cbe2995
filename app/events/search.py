"""Searches a project's events, in pages from the newest to the oldest."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.events.cursors import Cursors, foreign_cursor
from app.events.names import find_project, resolved
from app.events.query.nodes import Node
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.ranges import Bound, TimeRange, frozen_range
from app.events.standby import Standby, read_up_to
from app.events.statements import SEARCH, reading
from app.events.transactions import FewDays
from app.events.view import ShownEvent, shown
from app.events.walk import Key, Walk, key_of
from app.management.common.operators import Operator

_SECONDS_MAX: Final = 1.0
"""How long one request looks for matches before it answers with what it has."""
_HORIZON: Final = text("SELECT moment FROM event_horizon(:workspace)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """Which events, how many, and after which one."""

    project_id: str
    q: str = ""
    begin: Bound | None = None
    end: Bound | None = None
    limit: int
    cursor: str | None = None
    secret_keys: tuple[str, ...] = field(repr=False)
    """The first signs cursors, all verify."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchPage:
    """Some matches, the newest first."""

    data: Sequence[ShownEvent]
    next_cursor: str | None
    """None at the end of the range."""
    normalized: str
    range: TimeRange
    """The same for all pages."""
    searched_from: datetime | None
    """If time was over: since when everything is looked through. The next page goes on below."""


@dataclass(frozen=True, slots=True)
class _Position:
    """What a cursor holds: the frozen range, the one that was asked for, and below which event the next page begins."""

    range: TimeRange
    asked: tuple[Bound | None, Bound | None]
    below: Key

    def to_json(self) -> list[Any]:
        moments = (self.range.begin, self.range.end, *self.asked, self.below.received_at)
        return [*map(_bound_to_json, moments), self.below.event_uid.hex]

    @classmethod
    def of_json(cls, values: list[Any]) -> "_Position":
        *bounds, uid = values
        begin, end, asked_begin, asked_end, below = map(_bound_of_json, bounds)
        return cls(TimeRange(begin, end), (asked_begin, asked_end), Key(below, UUID(uid)))


def _bound_to_json(bound: Bound | None) -> Any:
    return bound.total_seconds() if isinstance(bound, timedelta) else bound and bound.isoformat()


def _bound_of_json(value: Any) -> Any:
    return timedelta(seconds=value) if isinstance(value, float) else value and datetime.fromisoformat(value)


def search(
    database: Database, operator: Operator, request: SearchRequest, standby: Standby | None = None
) -> SearchPage:
    """The page that `request` asks for, read on the standby if there is one.

    Raises SchemaValidationFailed for a query, a range or a cursor that is wrong, NotFound for a project beyond the
    caller's reach, and QueryTooBroad.
    """
    node = parse(request.q)
    normalized = print_query(node)
    begin = partial(reading, workspace_id=operator.workspace_id, query_class=SEARCH)
    with FewDays(partial(begin, database)) as transactions:
        session = transactions.session()
        project = find_project(session, operator, request.project_id)
        node = resolved(session, operator, project.id, node)
        cursors = Cursors(request.secret_keys, operator, f"search {project.public_id} {normalized}")
        position = _position(session, operator, request, cursors)
        read = partial(_read_page, project.id, node, position, request.limit)
        walk, data = read_up_to(position.range.end, read, transactions, standby, begin)
    below = key_of(walk.found[request.limit - 1]) if len(walk.found) > request.limit else walk.upper
    is_last = walk.is_at_end and len(walk.found) <= request.limit
    return SearchPage(
        data=data,
        next_cursor=None if is_last else cursors.sign(_Position(position.range, position.asked, below).to_json()),
        normalized=normalized,
        range=position.range,
        searched_from=None if walk.is_over else walk.upper.received_at,
    )


def _read_page(
    project_row: int, node: Node, position: _Position, limit: int, transactions: FewDays
) -> tuple[Walk, list[ShownEvent]]:
    walk = Walk(
        transactions=transactions,
        project_row=project_row,
        node=node,
        begin=position.range.begin,
        upper=position.below,
        limit=limit + 1,
        until=time.monotonic() + _SECONDS_MAX,
    )
    walk.run()
    return walk, shown(transactions.session(), walk.found[:limit])


def read_horizon(session: Session, operator: Operator) -> datetime:
    """The moment before which nothing can be received any more."""
    horizon: datetime = session.execute(_HORIZON, {"workspace": operator.workspace_id}).scalar_one()
    return horizon


def _position(session: Session, operator: Operator, request: SearchRequest, cursors: Cursors) -> _Position:
    if request.cursor is None:
        within = frozen_range(request.begin, request.end, read_horizon(session, operator))
        return _Position(within, (request.begin, request.end), Key.before(within.end))
    position = _Position.of_json(cursors.read(request.cursor))
    # The range of the first request, or the one that its answer has named, or none: all mean the frozen one.
    frozen = (position.range.begin, position.range.end)
    for given, asked, kept in zip((request.begin, request.end), position.asked, frozen, strict=True):
        if given not in (None, asked, kept):
            raise foreign_cursor()
    return position
