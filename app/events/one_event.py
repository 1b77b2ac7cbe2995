"""Finds one event: by our id, or by its source and the producer's id."""

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec
from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import NotFound
from app.events.names import note_project
from app.events.query.identity import read_shown_id
from app.events.replays.origin import Origin, origin_of
from app.events.statements import LOOK_UP, reading
from app.events.view import EVENTS, SHOWN_COLUMNS, ShownEvent, shown
from app.management.common.hierarchy import projects_within
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.models import EventLedger, Project, Source

_FORGOTTEN: Final = "There is no event with this id, or it is older than those that are remembered: search for it."


class OneEvent(ShownEvent, frozen=True, kw_only=True, gc=False):
    """An event that was asked for by itself."""

    origin: Origin | None
    """None: it was not stored by a replay."""


def read_event(database: Database, operator: Operator, event_id: str) -> OneEvent:
    """The event with our id. Raises NotFound, alike for events of others and for none."""
    found = read_shown_id(event_id)
    if found is None:
        raise NotFound
    received_at, event_uid = found
    within = projects_within(operator).with_only_columns(Project.id)
    with reading(database, operator.workspace_id, LOOK_UP) as session:
        return _one(session, _by_key(received_at, event_uid).where(EVENTS.c.project_id.in_(within)))


def read_event_of_source(database: Database, operator: Operator, source_id: str, event_id: str) -> OneEvent:
    """The event that the source has sent under this id; the ledger knows when it was received.

    Raises NotFound, alike for sources of others, and for an event_id that is not remembered any more.
    """
    sources = Source.within(operator.workspace_id).where(operator.reaches(Source.project_id))
    with reading(database, operator.workspace_id, LOOK_UP) as session:
        (source,) = find(session, sources, source_id)
        if "\x00" in event_id:  # PostgreSQL takes no such text, and no event has one
            raise NotFound
        ledger = select(EventLedger.received_at, EventLedger.event_uid).where(
            EventLedger.project_id == source.project_id,
            EventLedger.source_id == source.id,
            EventLedger.event_id == event_id,
        )
        entry = session.execute(ledger).one_or_none()
        if entry is None:
            raise NotFound(_FORGOTTEN)
        return _one(session, _by_key(*entry).where(EVENTS.c.project_id == source.project_id))


def _by_key(received_at: datetime, event_uid: UUID) -> Select[Any]:
    return SHOWN_COLUMNS.where(EVENTS.c.received_at == received_at, EVENTS.c.event_uid == event_uid)


def _one(session: Session, query: Select[Any]) -> OneEvent:
    rows = session.execute(query).all()
    if not rows:
        raise NotFound
    (event,) = shown(session, rows)
    note_project(event.project_id)
    return OneEvent(**msgspec.structs.asdict(event), origin=origin_of(rows[0].event_id, rows[0].event_uid))
