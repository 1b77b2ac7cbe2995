"""The stale keys of all workspaces, for the operator of the installation: unused, over, or soon to be."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, tuple_

from app.database.engine import Database, TenantScope
from app.management.common.lifetimes import CredentialState, expires_within, is_in, is_unused_for, state_at
from app.management.keys.domain import has_successor
from app.models import Environment, Project, Source, SourceKey, Workspace

# Some hundred kilobytes and some milliseconds each.
_CHUNK_ROWS: Final = 500
_ORDER: Final = (SourceKey.workspace_id, SourceKey.created_at, SourceKey.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Staleness:
    """What makes a key stale; either is enough, and None asks for nothing."""

    unused_for_days: int | None = None
    expires_within_days: int | None = None
    """A key that is over already, and not revoked, counts too: whoever moves its expiry has it back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleKey:
    """A line of the report."""

    workspace_id: str
    workspace: str
    project_id: str
    project: str
    source_id: str
    source: str
    key_id: str
    label: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    state: CredentialState


def report_keys(database: Database, stale: Staleness, *, chunk_rows: int = _CHUNK_ROWS) -> Iterator[StaleKey]:
    """The stale keys, by workspace and the oldest first; those that are revoked, or archived from above, are none.

    Each chunk has a transaction of its own: a pager that stands still holds no connection and no snapshot. Raises
    StorageUnavailable, also between two chunks.
    """
    query = _stale_keys(stale).limit(chunk_rows)
    last: tuple[Any, ...] | None = None
    while True:
        with database.transaction(TenantScope.ALL) as session:
            # By ix_source_keys_created_at.
            rows = session.execute(query if last is None else query.where(tuple_(*_ORDER) > last)).all()
        yield from map(_line, rows)
        if len(rows) < chunk_rows:
            return
        last = (rows[-1].workspace_row, rows[-1].created_at, rows[-1].key_row)


def _stale_keys(stale: Staleness) -> Select[Any]:
    columns: tuple[Any, ...] = (
        Workspace.public_id.label("workspace_id"),
        Workspace.name.label("workspace"),
        Project.public_id.label("project_id"),
        Project.name.label("project"),
        Source.public_id.label("source_id"),
        Source.name.label("source"),
        SourceKey.public_id.label("key_id"),
        SourceKey.label,
        SourceKey.created_at,
        SourceKey.last_used_at,
        SourceKey.expires_at,
        SourceKey.workspace_id.label("workspace_row"),
        SourceKey.id.label("key_row"),
        func.now().label("asked_at"),
    )
    # The shell stands above all workspaces: as in domain.py, the query begins with them and not inside one.
    return (
        select(*columns)
        .join_from(Workspace, SourceKey, SourceKey.workspace_id == Workspace.id)
        .join(Source, Source.id == SourceKey.source_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .where(SourceKey.revoked_at.is_(None), or_(*_reasons(stale)))
        .order_by(*_ORDER)
    )


def _reasons(stale: Staleness) -> Iterator[ColumnElement[bool]]:
    if stale.unused_for_days is not None:
        yield is_unused_for(stale.unused_for_days, SourceKey)
    if stale.expires_within_days is not None:
        # One that was rotated has its successor, and its end cannot be moved any more.
        ends = or_(expires_within(stale.expires_within_days, SourceKey), is_in(CredentialState.EXPIRED, SourceKey))
        yield and_(ends, ~has_successor())


def _line(row: Row[Any]) -> StaleKey:
    return StaleKey(
        workspace_id=row.workspace_id,
        workspace=row.workspace,
        project_id=row.project_id,
        project=row.project,
        source_id=row.source_id,
        source=row.source,
        key_id=row.key_id,
        label=row.label,
        created_at=row.created_at,
        last_used_at=row.last_used_at,
        expires_at=row.expires_at,
        state=state_at(row.asked_at, expires_at=row.expires_at, revoked_at=None),
    )
