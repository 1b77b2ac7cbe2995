"""/v1/audit: the audit log, in pages and as an export."""

import json
from collections.abc import Iterator
from itertools import chain
from typing import Final

import structlog
from flask import Response

from app.context import management_database
from app.management.audit import domain as audit
from app.management.audit import schemas
from app.management.audit.domain import EntryFilter, EntryView
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.schemas import PageQuerySchema

blueprint = ManagementBlueprint("audit", __name__, description="Who changed what, when and from where")

_log = structlog.get_logger()

NDJSON: Final = "application/x-ndjson"
_EXAMPLE: Final = (
    '{"id": "aud_5f0c", "actor": "cli", "action": "workspace.limit", "object_id": "ws_9fKx2LmQ", "project_id": null,'
    ' "before": {"events_per_second": null}, "after": {"events_per_second": 500}, "address": null, "request_id": null,'
    ' "created_at": "2026-06-01T10:00:00Z"}\n{"complete": true, "entries": 1}\n'
)


@blueprint.operation("GET", "/v1/audit", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.EntryQuerySchema, location="query")
@blueprint.response(200, schemas.AuditEntryPageSchema)
def list_audit_entries(operator: Operator, page: PageRequest, only: EntryFilter) -> Page[EntryView]:
    """List the audit log, newest first."""
    return audit.list_entries(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/audit/<entry_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.AuditEntrySchema)
def read_audit_entry(operator: Operator, entry_id: str) -> EntryView:
    """Read an entry of the audit log."""
    return audit.read_entry(management_database(), operator, entry_id)


@blueprint.operation("GET", "/v1/audit/export", role=Role.AUDITOR)
@blueprint.arguments(schemas.EntryQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type=NDJSON,
    example=_EXAMPLE,
    description="One entry a line, oldest first. The last line says that the export is whole, and how many there were.",
)
def export_audit_entries(operator: Operator, only: EntryFilter) -> Response:
    """Export the audit log as NDJSON, oldest first.

    The last line is `{"complete": true, "entries": 123}`. An export that ends otherwise has broken off: begin again.
    """
    chunks = audit.export_entries(management_database(), operator, only)
    # The first chunk is read before the response begins, so that a failure there still gets a status of its own.
    first = next(chunks, ())
    response = Response(_lines(first, chunks), mimetype=NDJSON)
    response.headers["Content-Disposition"] = 'attachment; filename="audit.ndjson"'
    return response


def _lines(first: tuple[EntryView, ...], others: Iterator[tuple[EntryView, ...]]) -> Iterator[str]:
    """The export line by line; its last line alone says whether it is complete.

    A failure from here on has no status any more. Raising breaks the connection under most servers; granian ends the
    response as a complete one.
    """
    schema = schemas.AuditEntrySchema()
    count = 0
    try:
        for chunk in chain((first,), others):
            count += len(chunk)
            # ASCII only: some readers take U+2028 in a description for the end of a line.
            yield "".join(f"{json.dumps(schema.dump(entry))}\n" for entry in chunk)
    except Exception as error:
        _log.warning("audit_export_broke_off", entries=count, cause=type(error).__name__)
        yield _last_line(count, is_complete=False)
        raise
    yield _last_line(count, is_complete=True)


def _last_line(entries: int, *, is_complete: bool) -> str:
    return f"{json.dumps({'complete': is_complete, 'entries': entries})}\n"
