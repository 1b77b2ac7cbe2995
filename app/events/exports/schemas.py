"""The bodies of exports."""

from typing import Any, Final

from marshmallow import fields, post_load

from app.events.export import Format
from app.events.exports.domain import NewExport
from app.events.schemas import QuerySchema, ReadQuerySchema
from app.management.common.schemas import ObjectSchema, choice_field, moment_field, page_schema
from app.models.job import JobState

EXAMPLE: Final = {
    "project_id": "prj_9fKx2LmQ",
    "q": "type:payment.* severity>=error",
    "from": "2026-06-01T00:00:00Z",
    "to": "2026-06-08T00:00:00Z",
    "format": "ndjson",
}
_DIGEST: Final = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"


class ExportCreateSchema(QuerySchema):
    # No default in the document: generators make a member required that has one.
    format = choice_field(Format, metadata={"description": "Default: ndjson."})

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> NewExport:
        return NewExport(begin=data.pop("from", None), end=data.pop("to", None), **data)


class ExportSchema(ObjectSchema):
    """An export, and how far it is."""

    project_id = fields.String(required=True)
    query = fields.Nested(ReadQuerySchema, required=True)
    format = choice_field(Format, required=True)
    state = choice_field(JobState, required=True)
    progress = fields.Float(
        required=True,
        metadata={"description": "How much of the range is worked off, from 0 to 1.", "example": 0.25},
    )
    events = fields.Integer(required=True, metadata={"description": "How many are in the file so far."})
    bytes = fields.Integer(required=True, metadata={"description": "Of the file, compressed, so far."})
    sha256 = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Of the file as it is fetched; null until it is complete.", "example": _DIGEST},
    )
    file = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "Where it can be fetched; null if there is no file, or none any more.",
            "example": "/v1/exports/exp_9fKx2LmQ/file",
        },
    )
    requested_by = fields.String(
        required=True, metadata={"description": "The token that asked for it.", "example": "tok_9fKx2LmQ"}
    )
    started_at = moment_field(may_be_null=True)
    ended_at = moment_field(may_be_null=True)
    expires_at = moment_field(may_be_null=True)
    failure = fields.String(
        required=True,
        allow_none=True,
        metadata={
            "description": "Why it failed: disk_full, quota_exceeded, file_lost, moved, or the code of an error; null:"
            " it did not.",
            "example": None,
        },
    )


ExportPageSchema = page_schema("ExportPage", ExportSchema)
