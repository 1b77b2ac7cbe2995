"""Lists of keys: of a source, of a workspace with filters, and the stale ones of all workspaces."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_

from app.database.engine import Database, TenantScope
from app.management.common.hierarchy import live_sources
from app.management.common.lifetimes import CredentialState, expires_within, is_in, is_unused_for, state_at
from app.management.common.lookup import equal_if_given, find
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import copy_of
from app.management.keys.domain import KeyView, has_successor, live_keys, view_of_key
from app.models import Environment, Project, Source, SourceKey, Workspace

# A chunk is some hundred kilobytes and takes PostgreSQL some milliseconds.
_CHUNK_ROWS: Final = 500
_ORDER: Final = (SourceKey.workspace_id, SourceKey.created_at, SourceKey.id)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyFilter:
    """Which keys a list shows; None shows all."""

    project_id: str | None = None
    source_id: str | None = None
    state: CredentialState | None = None
    never_used: bool | None = None
    unused_for_days: int | None = None
    expires_within_days: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Staleness:
    """What makes a key stale; either is enough, and None looks for nothing."""

    unused_for_days: int | None = None
    expires_within_days: int | None = None
    """A key that is over already, and not revoked, counts too: a later expiry would bring it back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaleKey:
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


def list_keys_of_source(database: Database, operator: Operator, source_id: str, request: PageRequest) -> Page[KeyView]:
    with database.transaction(operator.workspace_id) as session:
        source, *_ = find(session, live_sources(operator), source_id)
        below = live_keys(operator).where(SourceKey.source_id == source.id)
        return Listing(f"keys of {source_id}", below, view_of_key).page(session, operator.workspace_id, request)


def list_keys(database: Database, operator: Operator, only: KeyFilter, request: PageRequest) -> Page[KeyView]:
    """The workspace's keys that pass the filter.

    Newest first, also those that end soon: an expiry can be moved between two pages, and a list in its order would then
    repeat a key or hide one, which no list of ours does. What ends within days is few, and sorted by the reader.
    """
    listing = Listing(f"keys {asdict(only)}", live_keys(operator).where(*_conditions(only)), view_of_key)
    with database.transaction(operator.workspace_id) as session:
        return listing.page(session, operator.workspace_id, request)


def report_keys(database: Database, stale: Staleness, *, chunk_rows: int = _CHUNK_ROWS) -> Iterator[StaleKey]:
    """The stale keys of all workspaces, by workspace, the oldest first; no revoked ones, none below what is archived.

    Each chunk has a transaction of its own: a pager that stands still holds no connection and no snapshot. Raises
    StorageUnavailable, also between two chunks.
    """
    query = _stale_keys(stale).limit(chunk_rows)
    last: tuple[Any, ...] | None = None
    while True:
        with database.transaction(TenantScope.ALL) as session:
            # By ix_source_keys_created_at.
            rows = session.execute(query if last is None else query.where(tuple_(*_ORDER) > last)).all()
        for row in rows:
            yield copy_of(StaleKey, row, state=state_at(row.asked_at, expires_at=row.expires_at, revoked_at=None))
        if len(rows) < chunk_rows:
            return
        last = (rows[-1].workspace_row, rows[-1].created_at, rows[-1].key_row)


def _conditions(only: KeyFilter) -> Iterator[ColumnElement[bool]]:
    yield equal_if_given(Project.public_id, only.project_id)
    yield equal_if_given(Source.public_id, only.source_id)
    if only.state is not None:
        yield is_in(only.state, SourceKey)
    if only.never_used is not None:
        yield SourceKey.last_used_at.is_(None) if only.never_used else SourceKey.last_used_at.is_not(None)
    if only.unused_for_days is not None:
        yield is_unused_for(only.unused_for_days, SourceKey)
    if only.expires_within_days is not None:
        # A key that was rotated ends as it should: what is looked for needs a successor.
        yield expires_within(only.expires_within_days, SourceKey)
        yield ~has_successor()


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
    # The operator's shell sees all workspaces: the query begins with them and not inside one.
    return (
        select(*columns)
        .join_from(Workspace, SourceKey, SourceKey.workspace_id == Workspace.id)
        .join(Source, Source.id == SourceKey.source_id)
        .join(Environment, Environment.id == Source.environment_id)
        .join(Project, Project.id == Source.project_id)
        .where(Source.archived_at.is_(None), Environment.archived_at.is_(None), Project.archived_at.is_(None))
        .where(Workspace.home.is_(None), SourceKey.revoked_at.is_(None), or_(*_reasons(stale)))
        .order_by(*_ORDER)
    )


def _reasons(stale: Staleness) -> Iterator[ColumnElement[bool]]:
    if stale.unused_for_days is not None:
        yield is_unused_for(stale.unused_for_days, SourceKey)
    if stale.expires_within_days is not None:
        # The expiry of a rotated key cannot be moved any more.
        ends = or_(expires_within(stale.expires_within_days, SourceKey), is_in(CredentialState.EXPIRED, SourceKey))
        yield and_(ends, ~has_successor())
