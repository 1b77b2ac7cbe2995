"""Reads the audit log: pages, one entry, and an export of any size. app/audit/entries.py writes it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, DateTime, Interval, Select, func, literal, text
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
# Ids come in the order of time, but for transactions that overlap, by seconds, and a clock that was set back.
_DISORDER_MAX: Final = literal(timedelta(hours=1), Interval())
_ID_MAX: Final = (1 << 63) - 1
# Each index of the log ends with the id, so nothing needs sorting. A plan that sorts uses the index on the time and
# reads the whole range again for each chunk; with unlucky statistics PostgreSQL chooses it.
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
        query = _filtered(session, operator, only)
        return Listing(f"audit {asdict(only)}", query, _view).page(session, operator.workspace_id, request)


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
    query: Select[Any] | None = None
    last = 0
    while True:
        with database.transaction(operator.workspace_id) as session:
            check_validity(session, operator)
            if query is None:
                until_now = AuditEntry.id <= _newest(session, operator)
                query = _filtered(session, operator, only).where(until_now).order_by(AuditEntry.id).limit(chunk_rows)
            else:
                session.execute(_IN_ORDER)
            rows = session.execute(query.where(AuditEntry.id > last)).all()
        if rows:
            last = rows[-1][0].id
            yield tuple(_view(*row) for row in rows)
        if len(rows) < chunk_rows:
            return


def _newest(session: Session, operator: Operator) -> int:
    entries = AuditEntry.within(operator.workspace_id)
    newest: int | None = session.execute(entries.with_only_columns(func.max(AuditEntry.id))).scalar_one()
    return newest or 0


def _filtered(session: Session, operator: Operator, only: EntryFilter) -> Select[Any]:
    """The entries that pass the filter; the caller reads them in the order of their ids."""
    session.execute(_IN_ORDER)
    query = visible_entries(operator).where(
        equal_if_given(AuditEntry.object_id, only.object_id), equal_if_given(AuditEntry.actor, only.actor)
    )
    if only.action is not None and only.action.endswith(_ANY_VERB):
        query = query.where(AuditEntry.object_kind == only.action.removesuffix(_ANY_VERB))
    elif only.action is not None:
        query = query.where(AuditEntry.action == only.action)
    if only.begin is not None:
        first = _first_id(session, operator, only.begin)
        query = query.where(AuditEntry.created_at >= only.begin, AuditEntry.id >= first)
    if only.end is not None:
        last = _last_id(session, operator, only.end)
        query = query.where(AuditEntry.created_at < only.end, AuditEntry.id <= last)
    return query


# Pages go by ids. Without these two bounds they would read every entry that is newer, or older, than the filter's time.
# Within the same statement the planner could not estimate how many rows they leave.
def _first_id(session: Session, operator: Operator, begin: datetime) -> int:
    """An id before which no entry was made since `begin`."""
    earlier = AuditEntry.within(operator.workspace_id).where(AuditEntry.created_at < _moment(begin) - _DISORDER_MAX)
    latest = earlier.order_by(AuditEntry.created_at.desc(), AuditEntry.id.desc()).limit(1)
    found: int | None = session.execute(latest.with_only_columns(AuditEntry.id)).scalar()
    return 0 if found is None else found


def _last_id(session: Session, operator: Operator, end: datetime) -> int:
    """An id after which no entry was made before `end`."""
    later = AuditEntry.within(operator.workspace_id).where(AuditEntry.created_at >= _moment(end) + _DISORDER_MAX)
    first = later.order_by(AuditEntry.created_at, AuditEntry.id).limit(1)
    found: int | None = session.execute(first.with_only_columns(AuditEntry.id)).scalar()
    return _ID_MAX if found is None else found


def _moment(moment: datetime) -> ColumnElement[datetime]:
    """A value that PostgreSQL calculates with: Python's calendar has no hour before the year 1 or after 9999."""
    return literal(moment, DateTime(timezone=True))


def _view(entry: AuditEntry, project_id: str | None) -> EntryView:
    return view_of(EntryView, entry, project_id=project_id)
