"""The bodies of replays."""

from typing import Any, Final

from marshmallow import fields, post_load, validate

from app.events.replays.domain import RATE_DEFAULT, RATE_MAX, SAMPLE_EVENTS, NewReplay, ReplayFilter
from app.events.replays.finding import ReplayQuery
from app.events.schemas import EventSchema, QuerySchema, ReadQuerySchema
from app.management.common.schemas import (
    ObjectSchema,
    RequestSchema,
    choice_field,
    id_field,
    moment_field,
    page_schema,
)
from app.models.job import JobState
from app.web.schema_fields import OutputSchema

CREATE_EXAMPLE: Final = {
    "query": {"project_id": "prj_9fKx2LmQ", "q": "type:payment.* severity>=error", "from": "-24h"},
    "target_source_id": "src_9fKx2LmQ",
    "rate": 50,
}
_EXAMPLE_QUERY: Final = {
    "normalized": "type:payment.* severity>=error",
    "from": "2026-06-01T10:00:00Z",
    "to": "2026-06-02T10:00:00Z",
}
_COUNT: Final = "How many events the query finds; null: too many would have to be read one by one to count them."


class _ReplayQuerySchema(QuerySchema):
    """Which events, as a search says it. The range is frozen when the replay is made."""

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> ReplayQuery:
        return ReplayQuery(begin=data.pop("from", None), end=data.pop("to", None), **data)


class _TrueOrFalse(fields.Boolean):
    """marshmallow's Boolean would also take 1 and "yes"."""

    def _deserialize(self, value: Any, *_: Any, **__: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class ReplayCreateSchema(RequestSchema):
    makes = NewReplay
    query = fields.Nested(_ReplayQuerySchema, required=True)
    target_source_id = id_field("an unknown one answers 404")
    rate = fields.Integer(
        strict=True,
        validate=validate.Range(1, RATE_MAX),
        metadata={"description": f"Events a second at the most. Default: {RATE_DEFAULT}."},
    )
    dry_run = _TrueOrFalse(metadata={"description": "true: say what it would do, and store nothing."})

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        """A replay goes somewhere."""
        super().on_bind_field(field_name, field_obj)
        if field_name == "target_source_id":
            field_obj.required = True


class ReplayQuerySchema(RequestSchema):
    makes = ReplayFilter
    project_id = id_field()
    source_id = id_field("replays into this source; an unknown one shows nothing")
    state = choice_field(JobState)


class ReplaySchema(ObjectSchema):
    project_id = fields.String(required=True, metadata={"description": "Whose events are replayed."})
    target_source_id = fields.String(required=True, metadata={"example": "src_9fKx2LmQ"})
    key_id = fields.String(
        required=True, metadata={"description": "The key of this replay alone: `key:` finds what it has stored."}
    )
    query = fields.Nested(ReadQuerySchema, required=True, metadata={"example": _EXAMPLE_QUERY})
    rate = fields.Integer(required=True, metadata={"description": "Events a second at the most."})
    state = choice_field(JobState, required=True)
    count = fields.Integer(required=True, allow_none=True, metadata={"description": _COUNT, "example": 5})
    events = fields.Integer(required=True, metadata={"description": "How many it has come to so far.", "example": 3})
    stored = fields.Integer(required=True, metadata={"example": 2})
    duplicates = fields.Integer(
        required=True, metadata={"description": "Those that the source had already.", "example": 0}
    )
    refused = fields.Dict(
        keys=fields.String(),
        values=fields.Integer(),
        required=True,
        metadata={"description": "How many, by the code of the refusal.", "example": {"timestamp_out_of_range": 1}},
    )
    progress = fields.Float(required=True, metadata={"description": "0 to 1.", "example": 0.6})
    requested_by = fields.String(required=True, metadata={"description": "A token.", "example": "tok_9fKx2LmQ"})
    started_at = moment_field(may_be_null=True)
    ended_at = moment_field(may_be_null=True)
    failure = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "The code of the error that has ended it.", "example": None},
    )


ReplayPageSchema = page_schema("ReplayPage", ReplaySchema)


class ReplayDryRunSchema(OutputSchema):
    """What a replay would do at this moment."""

    dry_run = fields.Boolean(required=True)
    count = fields.Integer(required=True, allow_none=True, metadata={"description": _COUNT, "example": 5})
    sample = fields.List(
        fields.Nested(EventSchema),
        required=True,
        metadata={"description": f"Up to {SAMPLE_EVENTS} of the newest; those that a second's search finds."},
    )
    query = fields.Nested(ReadQuerySchema, required=True, metadata={"example": _EXAMPLE_QUERY})
