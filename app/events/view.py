"""The view through which events are read, and what a caller sees of one.

`readable_events` shows the rows of the transaction's workspace. It belongs to the tables' owner: below it there is no
row security, whose conditions would switch most indexes off (docs/decisions/0023).
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    MetaData,
    Row,
    Select,
    Table,
    Text,
    Uuid,
    bindparam,
    cast,
    literal,
    select,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.events.query.identity import shown_id
from app.models import Environment, Project, Source, SourceKey

PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page ends with the event whose payload takes it beyond this: a thousand of 256 KiB would be 256 MiB."""
# A MetaData of its own: Base's describes the tables that row security protects.
EVENTS: Final = Table(
    "readable_events",
    MetaData(),
    Column("project_id", BigInteger),
    Column("received_at", DateTime(timezone=True)),
    Column("event_uid", Uuid),
    Column("workspace_id", BigInteger),
    Column("environment_id", BigInteger),
    Column("source_id", BigInteger),
    Column("source_key_id", BigInteger),
    Column("event_id", Text),
    Column("event_type", Text),
    Column("severity", Text),
    Column("occurred_at", DateTime(timezone=True)),
    Column("payload", JSONB),
    Column("position", BigInteger),
)
_NAMED: Final[Mapping[str, tuple[Any, Any]]] = {
    "project_id": (Project, Project.public_id),
    "environment_id": (Environment, Environment.public_id),
    "source_id": (Source, Source.public_id),
    "source_key_id": (SourceKey, SourceKey.public_id),
}


def _names_of(kind: str, model: Any, name: Any, named_by: str) -> Select[Any]:
    wanted: Any = bindparam(named_by, expanding=True)
    return select(literal(kind).label("kind"), model.id, name.label("name")).where(model.id.in_(wanted))


_NAMES: Final = union_all(
    _names_of("environment", Environment, Environment.name, "environment_id"),
    *(_names_of(column, model, public_id, column) for column, (model, public_id) in _NAMED.items()),
)


class ShownEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the API shows it: the envelope as it was sent, and where and when it was received."""

    id: str
    """Ours."""
    event_id: str
    """The producer's, or the one that was made for it."""
    event_type: str
    source_id: str
    environment: str
    severity: str
    timestamp: datetime
    """The producer's clock."""
    received_at: datetime
    """PostgreSQL's clock."""
    project_id: str
    environment_id: str
    key_id: str
    payload: msgspec.Raw
    """The text that PostgreSQL keeps: numbers have every digit that was sent."""


def columns_of(events: Any) -> Select[Any]:
    """What shown() needs of `events`, the view or a query for all its columns."""
    columns = [column for column in events.c if column.name not in ("payload", "workspace_id")]
    return select(*columns, cast(events.c.payload, Text).label("payload_text"))


SHOWN_COLUMNS: Final = columns_of(EVENTS)
"""Made once: that takes as long as PostgreSQL takes to find an event."""


def shown_event(
    row: Row[Any], *, source_id: str, environment: str, project_id: str, environment_id: str, key_id: str
) -> ShownEvent:
    """What a caller sees of a row with the columns of columns_of()."""
    return ShownEvent(
        id=shown_id(row.received_at, row.event_uid),
        event_id=row.event_id,
        event_type=row.event_type,
        source_id=source_id,
        environment=environment,
        severity=row.severity,
        timestamp=row.occurred_at,
        received_at=row.received_at,
        project_id=project_id,
        environment_id=environment_id,
        key_id=key_id,
        payload=msgspec.Raw(row.payload_text.encode()),
    )


def shown(session: Session, rows: Collection[Row[Any]]) -> list[ShownEvent]:
    """What a caller sees of rows of columns_of()."""
    if not rows:
        return []
    names = _names(session, rows)
    return [
        shown_event(
            row,
            source_id=names["source_id", row.source_id],
            environment=names["environment", row.environment_id],
            project_id=names["project_id", row.project_id],
            environment_id=names["environment_id", row.environment_id],
            key_id=names["source_key_id", row.source_key_id],
        )
        for row in rows
    ]


def _names(session: Session, rows: Collection[Row[Any]]) -> Mapping[tuple[str, int], str]:
    """The public ids of what the rows name, and the environments' names, by kind and inner id.

    Asked for every time: a process that kept them would show another's after the database was restored.
    """
    wanted = {kind: list({getattr(row, kind) for row in rows}) for kind in _NAMED}
    return {(kind, row_id): name for kind, row_id, name in session.execute(_NAMES, wanted)}
