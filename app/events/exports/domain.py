"""Exports as files: asked for, listed, cancelled, deleted and fetched. The worker writes them (app/jobs/export.py).

Who may read a project may read its exports, by which token ever they were asked for: a file holds what the stream
shows. That token may be revoked meanwhile; the job goes on, because fetching the file takes a live one.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, or_
from sqlalchemy.orm import Session

from app.database.advisory_locks import exclude_parents
from app.database.engine import Database
from app.errors import Conflict, NotConfigured, NotFound
from app.events.export import Format
from app.events.names import find_project, known_names, note_project
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.events.query.resolution import bound
from app.events.ranges import Bound, frozen_range
from app.events.search import read_horizon
from app.identifiers import new_public_id
from app.management.common.etags import Target
from app.management.common.lookup import find, find_to_change
from app.management.common.mutations import insert, moment, mutation, update
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.models import Export, Project
from app.models.job import JobState

PENDING_MAX: Final = 5
"""Of one workspace at a time. They would only wait for each other."""
KEPT_MAX: Final = 50
"""Files of one workspace at a time."""
_UNCONFIGURED: Final = (
    "This installation keeps no export files (LARIBA_DOWNLOAD_DIR)."
    " GET /v1/events/export sends the same events at once."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewExport:
    """Which events, and in which form."""

    project_id: str
    q: str = ""
    begin: Bound | None = None
    end: Bound | None = None
    format: Format = Format.NDJSON


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportView(View):
    project_id: str
    query: Mapping[str, Any]
    """How it was understood: normalized, from, to."""
    format: Format
    state: JobState
    progress: float
    """How much of the range is worked off, from 0 to 1."""
    events: int
    bytes: int
    """Of the file, compressed, as far as it is written."""
    sha256: str | None
    file: str | None
    """The path from which it can be fetched; None if there is none (yet, or any more)."""
    requested_by: str
    started_at: datetime | None
    ended_at: datetime | None
    expires_at: datetime | None
    failure: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class FinishedFile:
    """A file that can be fetched."""

    public_id: str
    format: Format
    events: int
    bytes: int
    sha256: str
    written_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Downloads:
    """Where files lie, and how much space each workspace has there."""

    folder: str
    """Empty: nowhere."""
    bytes_max: int


def exports_within(operator: Operator) -> Select[Any]:
    """Exports of projects within the caller's reach, archived projects among them, as for all that reads events.

    Each with its project's public id, and the moment of the query, by which its expiry is judged.
    """
    return (
        Export.within(operator.workspace_id)
        .join(Project, Project.id == Export.project_id)
        .where(Export.archived_at.is_(None), operator.reaches(Project.id))
        .add_columns(Project.public_id, func.clock_timestamp())
    )


def create_export(database: Database, operator: Operator, new: NewExport, downloads: Downloads) -> ExportView:
    """A new export, which the worker begins within seconds. Its range is frozen now, so nothing can come into it.

    Raises NotConfigured, NotFound for a project beyond the caller's reach, SchemaValidationFailed for a query or range
    that is wrong, and Conflict if the workspace has as many exports as it may.
    """
    if not downloads.folder:
        raise NotConfigured(_UNCONFIGURED)
    node = parse(new.q)
    with mutation(database, operator) as session:
        project = find_project(session, operator, new.project_id)
        known = known_names(session, operator, project.id, node)
        bound(node, known)
        within = frozen_range(new.begin, new.end, read_horizon(session, operator))
        _require_space(session, operator, downloads)
        export = Export(
            public_id=new_public_id("exp"),
            workspace_id=operator.workspace_id,
            project_id=project.id,
            requested_by=operator.actor,
            q=print_query(node),
            names=asdict(known),
            begins_at=within.begin,
            ends_at=within.end,
            format=new.format,
        )
        asked = {"q": export.q, "from": within.begin, "to": within.end, "format": new.format}
        insert(session, operator, export, "export.create", asked)
        return _view(export, project.public_id, export.created_at)


def list_exports(database: Database, operator: Operator, request: PageRequest) -> Page[ExportView]:
    with database.transaction(operator.workspace_id) as session:
        return Listing("exports", exports_within(operator), _view).page(session, operator.workspace_id, request)


def read_export(database: Database, operator: Operator, export_id: str) -> ExportView:
    with database.transaction(operator.workspace_id) as session:
        return _view(*_find(session, operator, export_id))


def cancel_export(database: Database, operator: Operator, target: Target) -> ExportView:
    """End a pending export: after this has returned, nothing more is written; does nothing to one that has ended."""
    with mutation(database, operator) as session:
        export, *rest = _find_to_change(session, operator, target)
        if export.ended_at is None:
            update(session, operator, export, "export.cancel", _cancelled(session))
        return _view(export, *rest)


def delete_export(database: Database, operator: Operator, target: Target) -> None:
    """Delete an export with its file, which cannot be fetched after this has returned; a pending one is cancelled.

    The worker removes the file from the disk within about a minute, so a web server need not be able to.
    """
    with mutation(database, operator) as session:
        export, *_ = _find_to_change(session, operator, target)
        cancelled = _cancelled(session) if export.ended_at is None else {}
        update(session, operator, export, "export.delete", cancelled | {"archived_at": moment(session)})


def find_file(database: Database, operator: Operator, export_id: str) -> FinishedFile:
    """The file of an export. Raises Conflict if it is not completed, and NotFound once it has expired."""
    with database.transaction(operator.workspace_id) as session:
        export, _, now = _find(session, operator, export_id)
    if export.state != JobState.COMPLETED:
        is_pending = export.ended_at is None
        hint = "Ask for it again until its state is completed." if is_pending else "Ask for another export."
        raise Conflict(f"This export is {export.state} and has no file. {hint}")
    if not _is_kept(export, now):
        raise NotFound(f"The file of this export was kept until {export.expires_at:%Y-%m-%dT%H:%M:%SZ}.")
    return FinishedFile(
        public_id=export.public_id,
        format=Format(export.format),
        events=export.events,
        bytes=export.bytes,
        sha256=export.sha256 or "",
        written_at=export.ended_at,
    )


def _find(session: Session, operator: Operator, export_id: str) -> tuple[Any, ...]:
    """A row of exports_within(), whose project the request counts for. Raises NotFound."""
    row = find(session, exports_within(operator), export_id)
    note_project(row[1])
    return row


def _find_to_change(session: Session, operator: Operator, target: Target) -> tuple[Any, ...]:
    """As _find(), and locked. Raises PreconditionFailed too, which counts for the project as well."""
    _find(session, operator, target.public_id)
    return find_to_change(session, operator, exports_within(operator), target)


def _require_space(session: Session, operator: Operator, downloads: Downloads) -> None:
    exclude_parents(session, operator.workspace_id)  # or two at once would both be the last one
    is_pending, is_kept = Export.ended_at.is_(None), Export.expires_at > func.clock_timestamp()
    found = Export.within(operator.workspace_id).where(Export.archived_at.is_(None), or_(is_pending, is_kept))
    counts = (func.count().filter(is_pending), func.count().filter(is_kept), func.coalesce(func.sum(Export.bytes), 0))
    pending, kept, size = session.execute(found.with_only_columns(*counts)).one()
    if pending >= PENDING_MAX:
        raise Conflict(f"{pending} exports of this workspace are pending: wait for one, or cancel one.")
    if kept >= KEPT_MAX:
        raise Conflict(f"This workspace has {kept} export files: delete one, or wait until one expires.")
    if size >= downloads.bytes_max:
        raise Conflict(f"The export files of this workspace take {size} bytes: delete one, or wait until one expires.")


def _cancelled(session: Session) -> dict[str, Any]:
    return {"state": JobState.CANCELLED, "ended_at": moment(session)}


def _is_kept(export: Export, now: datetime) -> bool:
    return export.expires_at is not None and now < export.expires_at


def _progress(export: Export) -> float:
    if export.state == JobState.COMPLETED:
        return 1.0
    whole = export.ends_at - export.begins_at
    if export.reached_at is None or not whole:
        return 0.0
    return round((export.ends_at - export.reached_at) / whole, 4)


def _view(export: Export, project_id: str, now: datetime) -> ExportView:
    return view_of(
        ExportView,
        export,
        project_id=project_id,
        query={"normalized": export.q, "from": export.begins_at, "to": export.ends_at},
        format=Format(export.format),
        state=JobState(export.state),
        progress=_progress(export),
        file=f"/v1/exports/{export.public_id}/file" if _is_kept(export, now) else None,
    )
