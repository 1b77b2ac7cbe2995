"""Reads the audit log: pages, one entry, and an export of any size. app/audit/entries.py writes it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, text, tuple_
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.management.common.lookup import equal_if_given, find
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.token_validity import check_validity
from app.management.common.views import view_of
from app.models import AuditEntry, Project

_ANY_VERB: Final = ".*"
# A chunk is a few hundred kilobytes at the most and some milliseconds of the database.
_CHUNK_ROWS: Final = 500
_ORDER: Final = (AuditEntry.created_at, AuditEntry.id)
# Each index of the log ends with time and id, so nothing needs sorting. A plan that sorts uses the index on the time
# and reads the whole range again for each chunk; with unlucky statistics PostgreSQL chooses it.
_IN_ORDER: Final = text("SELECT set_config('enable_sort', 'off', true)")


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryView:
    id: str
    actor: str
    action: str
    object_id: str
    project_id: str | None
    before: dict[str, Any]
    after: dict[str, Any]
    address: str | None
    request_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryFilter:
    """Which entries a list or export has; None: all."""

    object_id: str | None = None
    actor: str | None = None
    action: str | None = None
    """Object and verb, or all verbs of an object, such as `source_key.*`."""
    begin: datetime | None = None
    end: datetime | None = None
    """Exclusive."""


def visible_entries(operator: Operator) -> Select[Any]:
    """The entries that the caller may read, each with its project's public id.

    A token that is limited to some projects sees the entries of these, archived or not; entries of the workspace as a
    whole, its tokens among it, are for tokens of the whole workspace.
    """
    return (
        AuditEntry.within(operator.workspace_id)
        .outerjoin(Project, Project.id == AuditEntry.project_id)
        .where(operator.reaches(AuditEntry.project_id))
        .add_columns(Project.public_id)
    )


def list_entries(database: Database, operator: Operator, only: EntryFilter, request: PageRequest) -> Page[EntryView]:
    with database.transaction(operator.workspace_id) as session:
        session.execute(_IN_ORDER)
        listing = Listing(f"audit {asdict(only)}", _filtered(operator, only), _view)
        return listing.page(session, operator.workspace_id, request)


def read_entry(database: Database, operator: Operator, entry_id: str) -> EntryView:
    with database.transaction(operator.workspace_id) as session:
        return _view(*find(session, visible_entries(operator), entry_id))


def export_entries(
    database: Database, operator: Operator, only: EntryFilter, *, chunk_rows: int = _CHUNK_ROWS
) -> Iterator[tuple[EntryView, ...]]:
    """All entries of the filter up to the newest one of now, oldest first, in chunks.

    Each chunk has a transaction of its own, so that a slow reader holds no connection and no snapshot, and a token that
    is revoked meanwhile reads no further. Raises StorageUnavailable and InvalidManagementToken, also between two
    chunks: the chunks before are then incomplete.
    """
    query = _filtered(operator, only).order_by(*_ORDER).limit(chunk_rows)
    newest: tuple[Any, ...] | None = None
    last: tuple[Any, ...] | None = None
    while True:
        with database.transaction(operator.workspace_id) as session:
            check_validity(session, operator)
            session.execute(_IN_ORDER)
            newest = newest or _newest(session, operator)
            if newest is None:
                return
            chunk = query.where(tuple_(*_ORDER) <= newest)
            rows = session.execute(chunk if last is None else chunk.where(tuple_(*_ORDER) > last)).all()
        if rows:
            last = (rows[-1][0].created_at, rows[-1][0].id)
            yield tuple(_view(*row) for row in rows)
        if len(rows) < chunk_rows:
            return


def _newest(session: Session, operator: Operator) -> tuple[Any, ...] | None:
    """Time and id of the workspace's newest entry."""
    entries = AuditEntry.within(operator.workspace_id).order_by(*(column.desc() for column in _ORDER)).limit(1)
    newest = session.execute(entries.with_only_columns(*_ORDER)).one_or_none()
    return None if newest is None else tuple(newest)


def _filtered(operator: Operator, only: EntryFilter) -> Select[Any]:
    query = visible_entries(operator).where(
        equal_if_given(AuditEntry.object_id, only.object_id), equal_if_given(AuditEntry.actor, only.actor)
    )
    if only.action is not None and only.action.endswith(_ANY_VERB):
        query = query.where(AuditEntry.object_kind == only.action.removesuffix(_ANY_VERB))
    elif only.action is not None:
        query = query.where(AuditEntry.action == only.action)
    if only.begin is not None:
        query = query.where(AuditEntry.created_at >= only.begin)
    if only.end is not None:
        query = query.where(AuditEntry.created_at < only.end)
    return query


def _view(entry: AuditEntry, project_id: str | None) -> EntryView:
    return view_of(EntryView, entry, project_id=project_id)
