"""/v1/audit: the trail of all changes, to read and to take along."""

import json
from collections.abc import Iterator
from datetime import datetime
from itertools import chain
from typing import Any, Final

import structlog
from flask import Response
from marshmallow import ValidationError, fields, post_load, validate, validates_schema

from app.context import current_context
from app.management.audit import domain as trail
from app.management.audit.domain import EntryFilter, EntryView
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.schemas import (
    AnswerSchema,
    PageQuerySchema,
    RequestSchema,
    id_field,
    instant_field,
    moment_field,
    page_schema,
)

blueprint = ManagementBlueprint("audit", __name__, description="Who changed what, when and from where")

_log = structlog.get_logger()

NDJSON: Final = "application/x-ndjson"
_EXAMPLE: Final = (
    '{"id": "aud_5f0c", "actor": "cli", "action": "workspace.limit", "object_id": "ws_9fKx2LmQ", "project_id": null,'
    ' "before": {"events_per_second": null}, "after": {"events_per_second": 500}, "address": null, "request_id": null,'
    ' "created_at": "2026-06-01T10:00:00Z"}\n{"complete": true, "entries": 1}\n'
)
_ACTION: Final = r"[a-z_]{1,64}\.([a-z_]{1,64}|\*)"


class EntryQuerySchema(RequestSchema):
    """Which entries are meant."""

    object_id = id_field()
    actor = id_field("a token's, or `cli` for the operator's shell")
    action = fields.String(
        validate=validate.Regexp(
            rf"\A{_ACTION}\Z", error="Must be an action such as source_key.revoke, or all of an object: source_key.*."
        ),
        metadata={
            "pattern": f"^{_ACTION}$",
            "description": "A whole action, such as source_key.revoke, or all of an object: source_key.*.",
        },
    )
    begin = instant_field(data_key="from", description="The first moment that is meant.")
    end = instant_field(data_key="to", description="The first moment that is not meant any more.")

    @validates_schema
    def _check_order(self, data: dict[str, Any], **_: Any) -> None:
        begin: datetime | None = data.get("begin")
        end: datetime | None = data.get("end")
        if begin is not None and end is not None and begin >= end:
            raise ValidationError("Must be later than from.", "to")

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> EntryFilter:
        return EntryFilter(**data)


def _changes_field(description: str) -> fields.Dict:
    return fields.Dict(
        keys=fields.String(), required=True, metadata={"description": description, "additionalProperties": True}
    )


class AuditEntrySchema(AnswerSchema):
    """An entry of the trail."""

    id = fields.String(required=True)
    actor = fields.String(
        required=True,
        metadata={"description": "A token's id, `cli` for the operator's shell, `worker` for what time has done."},
    )
    action = fields.String(required=True, metadata={"description": "Object and verb, such as `source_key.revoke`."})
    object_id = fields.String(required=True)
    project_id = fields.String(
        required=True, allow_none=True, metadata={"description": "null: it concerns the workspace as a whole."}
    )
    before = _changes_field("What changed, as it was.")
    after = _changes_field("What changed, as it is now.")
    address = fields.String(required=True, allow_none=True)
    request_id = fields.String(required=True, allow_none=True)
    created_at = moment_field()


@blueprint.operation("GET", "/v1/audit", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(EntryQuerySchema, location="query")
@blueprint.response(200, page_schema("AuditEntryPage", AuditEntrySchema))
def list_audit_entries(operator: Operator, page: PageRequest, only: EntryFilter) -> Page[EntryView]:
    """List the audit trail, newest first."""
    return trail.list_entries(current_context().management.database, operator, only, page)


@blueprint.operation("GET", "/v1/audit/<entry_id>", role=Role.AUDITOR)
@blueprint.response(200, AuditEntrySchema)
def read_audit_entry(operator: Operator, entry_id: str) -> EntryView:
    """Read an entry of the audit trail."""
    return trail.read_entry(current_context().management.database, operator, entry_id)


@blueprint.operation("GET", "/v1/audit/export", role=Role.AUDITOR)
@blueprint.arguments(EntryQuerySchema, location="query")
@blueprint.response(
    200,
    {"type": "string", "format": "binary"},
    content_type=NDJSON,
    example=_EXAMPLE,
    description="One entry a line, oldest first. The last line says that the export is whole, and how many there were.",
)
def export_audit_entries(operator: Operator, only: EntryFilter) -> Response:
    """Export the audit trail as NDJSON, oldest first.

    The last line is `{"complete": true, "entries": 123}`. An export that ends otherwise has broken off: begin again.
    """
    chunks = trail.export_entries(current_context().management.database, operator, only)
    # The first chunk is read before the answer begins, so that what goes wrong there is still told by a status.
    first = next(chunks, ())
    response = Response(_lines(first, chunks), mimetype=NDJSON)
    response.headers["Content-Disposition"] = 'attachment; filename="audit.ndjson"'
    return response


def _lines(first: tuple[EntryView, ...], others: Iterator[tuple[EntryView, ...]]) -> Iterator[str]:
    """The export line by line; the last line alone tells a whole export from a broken one.

    What goes wrong from here on has no status any more. Raising breaks the connection under most servers; granian ends
    the answer as if all were well.
    """
    schema = AuditEntrySchema()
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
