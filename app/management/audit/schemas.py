"""The query and the entries of the audit log."""

from datetime import datetime
from typing import Any, Final

from marshmallow import ValidationError, fields, validate, validates_schema

from app.management.audit.domain import EntryFilter
from app.management.common.schemas import (
    MomentWithOffset,
    RequestSchema,
    id_field,
    moment_field,
    page_schema,
)
from app.web.schema_fields import OutputSchema

_ACTION: Final = r"[a-z_]{1,64}\.([a-z_]{1,64}|\*)"


def _moment_field(data_key: str, description: str) -> MomentWithOffset:
    return MomentWithOffset(data_key=data_key, metadata={"format": "date-time", "description": description})


class EntryQuerySchema(RequestSchema):
    makes = EntryFilter
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
    begin = _moment_field("from", "The first moment that is meant.")
    end = _moment_field("to", "The first moment that is not meant any more.")

    @validates_schema
    def _check_order(self, data: dict[str, Any], **_: Any) -> None:
        begin: datetime | None = data.get("begin")
        end: datetime | None = data.get("end")
        if begin is not None and end is not None and begin >= end:
            raise ValidationError("Must be later than from.", "to")


def _changes_field(description: str) -> fields.Dict:
    return fields.Dict(
        keys=fields.String(), required=True, metadata={"description": description, "additionalProperties": True}
    )


class AuditEntrySchema(OutputSchema):
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


AuditEntryPageSchema = page_schema("AuditEntryPage", AuditEntrySchema)
