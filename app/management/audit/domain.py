"""Reads the audit trail: pages, one entry, and an export of any size. Writing is app/audit/entries.py's alone."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, text, tuple_
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.management.common.lookup import find
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.token_validity import check_standing
from app.models import AuditEntry, Project

_ANY_VERB: Final = ".*"
# A chunk is a few hundred kilobytes at the most and some milliseconds of the database.
_CHUNK_ROWS: Final = 500
_ORDER: Final = (AuditEntry.created_at, AuditEntry.id)
# Each index of the trail ends with time and id, so nothing needs sorting: a plan that sorts has taken the index on the
# time alone, and reads the whole range again for each chunk of it. The planner's statistics choose so now and then.
_IN_ORDER: Final = text("SELECT set_config('enable_sort', 'off', true)")


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryFacts:
    """An entry as its readers see it. It never changes."""

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
    """Which entries are meant; None means all."""

    object_id: str | None = None
    actor: str | None = None
    action: str | None = None
    """Object and verb, or all verbs of an object, such as `source_key.*`."""
    begin: datetime | None = None
    end: datetime | None = None
    """The first moment that is not meant any more."""


def visible_entries(operator: Operator) -> Select[Any]:
    """The entries that the caller may read, each with its project's public id.

    A caller with some projects sees what happened in these, archived or not; what concerns the workspace as a whole,
    its tokens among it, is for those who have all of it.
    """
    return (
        AuditEntry.within(operator.workspace_id)
        .outerjoin(Project, Project.id == AuditEntry.project_id)
        .where(operator.reaches(AuditEntry.project_id))
        .add_columns(Project.public_id)
    )


def list_entries(database: Database, operator: Operator, only: EntryFilter, request: PageRequest) -> Page[EntryFacts]:
    """The entries that the filter lets through."""
    with database.transaction(operator.workspace_id) as session:
        session.execute(_IN_ORDER)
        listing = Listing(AuditEntry, operator.workspace_id, f"audit {asdict(only)}", _filtered(operator, only), _facts)
        return listing.page(session, request)


def read_entry(database: Database, operator: Operator, entry_id: str) -> EntryFacts:
    """One entry."""
    with database.transaction(operator.workspace_id) as session:
        return _facts(*find(session, visible_entries(operator), AuditEntry, entry_id))


def export_entries(
    database: Database, operator: Operator, only: EntryFilter, *, chunk_rows: int = _CHUNK_ROWS
) -> Iterator[tuple[EntryFacts, ...]]:
    """All entries of the filter up to the newest one of now, oldest first, in chunks.

    Each chunk has a transaction of its own, so that a slow reader holds no connection and no snapshot, and whoever
    has lost the right to read meanwhile gets no further. Raises StorageUnavailable and InvalidManagementToken, also
    between two chunks: what came before is then not the whole.
    """
    query = _filtered(operator, only).order_by(*_ORDER).limit(chunk_rows)
    newest: tuple[Any, ...] | None = None
    last: tuple[Any, ...] | None = None
    while True:
        with database.transaction(operator.workspace_id) as session:
            check_standing(session, operator)
            session.execute(_IN_ORDER)
            newest = newest or _newest(session, operator)
            if newest is None:
                return
            chunk = query.where(tuple_(*_ORDER) <= newest)
            rows = session.execute(chunk if last is None else chunk.where(tuple_(*_ORDER) > last)).all()
        if rows:
            last = (rows[-1][0].created_at, rows[-1][0].id)
            yield tuple(_facts(*row) for row in rows)
        if len(rows) < chunk_rows:
            return


def _newest(session: Session, operator: Operator) -> tuple[Any, ...] | None:
    """Time and id of the workspace's newest entry."""
    entries = AuditEntry.within(operator.workspace_id).order_by(*(column.desc() for column in _ORDER)).limit(1)
    newest = session.execute(entries.with_only_columns(*_ORDER)).one_or_none()
    return None if newest is None else tuple(newest)


def _filtered(operator: Operator, only: EntryFilter) -> Select[Any]:
    """The entries that the filter lets through."""
    query = visible_entries(operator)
    if only.object_id is not None:
        query = query.where(AuditEntry.object_id == only.object_id)
    if only.actor is not None:
        query = query.where(AuditEntry.actor == only.actor)
    if only.action is not None and only.action.endswith(_ANY_VERB):
        query = query.where(AuditEntry.object_kind == only.action.removesuffix(_ANY_VERB))
    elif only.action is not None:
        query = query.where(AuditEntry.action == only.action)
    if only.begin is not None:
        query = query.where(AuditEntry.created_at >= only.begin)
    if only.end is not None:
        query = query.where(AuditEntry.created_at < only.end)
    return query


def _facts(entry: AuditEntry, project_id: str | None) -> EntryFacts:
    return EntryFacts(
        id=entry.public_id,
        actor=entry.actor,
        action=entry.action,
        object_id=entry.object_id,
        project_id=project_id,
        before=entry.before,
        after=entry.after,
        address=entry.address,
        request_id=entry.request_id,
        created_at=entry.created_at,
    )
