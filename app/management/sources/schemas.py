"""The bodies of sources."""

from typing import Any, Final

from marshmallow import fields, post_dump, post_load, validate

from app.management.common.schemas import (
    ArchivedQuerySchema,
    ObjectSchema,
    RequestSchema,
    change_schema,
    choice_field,
    description_field,
    id_field,
    moment_field,
    name_field,
    page_schema,
)
from app.management.keys.domain import NewKey
from app.management.keys.schemas import IssuedKeySchema, KeyCreateSchema
from app.management.sources.domain import NewSource, SourceFilter, SourceStatus
from app.models import SourceType, TimestampPolicy
from app.models.source import AHEAD_SECONDS_MAX, BEHIND_SECONDS_MAX

_SECONDS_MAX: Final = 3650 * 86_400


def _bound_field(side: str, default: int) -> fields.Integer:
    said = f"Further {side} our clock than so many seconds a `timestamp` is far. Default: {default}."
    return fields.Integer(strict=True, validate=validate.Range(1, _SECONDS_MAX), metadata={"description": said})


class SourceCreateSchema(RequestSchema):
    name = name_field()
    type = choice_field(SourceType, required=True)
    description = description_field()
    timestamp_policy = choice_field(
        TimestampPolicy,
        metadata={
            "description": "What becomes of an event whose `timestamp` is far from its receipt: stored (`accept`),"
            " stored with a mark (`mark`, the default), or refused with 422 `timestamp_out_of_range` (`refuse`)."
        },
    )
    timestamp_ahead_seconds_max = _bound_field("ahead of", AHEAD_SECONDS_MAX)
    timestamp_behind_seconds_max = _bound_field("behind", BEHIND_SECONDS_MAX)
    key = fields.Nested(
        KeyCreateSchema, allow_none=True, metadata={"description": "Issues a first key with it; null: none."}
    )

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> tuple[NewSource, NewKey | None]:
        key = data.pop("key", None)
        return NewSource(**data), key


SourceChangeSchema = change_schema(SourceCreateSchema, without={"key"})


class SourceQuerySchema(ArchivedQuerySchema):
    makes = SourceFilter
    project_id = id_field()
    environment_id = id_field()
    type = choice_field(SourceType)
    status = choice_field(SourceStatus)


class SourceSchema(ObjectSchema):
    project_id = fields.String(required=True)
    environment_id = fields.String(required=True)
    name = fields.String(required=True)
    type = choice_field(SourceType, required=True)
    description = fields.String(required=True)
    timestamp_policy = choice_field(TimestampPolicy, required=True)
    timestamp_ahead_seconds_max = fields.Integer(required=True)
    timestamp_behind_seconds_max = fields.Integer(required=True)
    status = choice_field(SourceStatus, required=True)
    last_event_at = moment_field(may_be_null=True)
    archived_at = moment_field(may_be_null=True)


class CreatedSourceSchema(SourceSchema):
    key = fields.Nested(IssuedKeySchema, metadata={"description": "Shown this once; absent if none was issued."})

    @post_dump
    def _leave_out(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        # A retry with the same Idempotency-Key answers with the source alone.
        return data if data["key"] is not None else {name: value for name, value in data.items() if name != "key"}


SourcePageSchema = page_schema("SourcePage", SourceSchema)
