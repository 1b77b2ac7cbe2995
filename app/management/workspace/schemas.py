"""The bodies of the workspace."""

from typing import Final

from marshmallow import fields, validate

from app.management.common.schemas import ChangeSchema, ObjectSchema, choice_field, name_field, rate_field
from app.models import WorkspaceStatus

_RETENTION_DAYS_MAX: Final = 36_500


class WorkspaceChangeSchema(ChangeSchema):
    name = name_field(required=False)
    retention_days = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(1, _RETENTION_DAYS_MAX),
        metadata={"description": "How many days events are kept; null: as long as the installation keeps them."},
    )
    key_events_per_second = rate_field()


class WorkspaceSchema(ObjectSchema):
    name = fields.String(required=True)
    status = choice_field(WorkspaceStatus, required=True)
    retention_days = fields.Integer(
        required=True, allow_none=True, metadata={"description": "null: as long as the installation keeps events."}
    )
    key_events_per_second = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "Of each key without a limit of its own; null: the installation's default."},
    )
    events_per_second = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "For all keys together; set by the operator of the installation."},
    )
    cell = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "Where it lives; null: the installation has one cell.", "example": "eu1"},
    )
