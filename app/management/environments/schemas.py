"""The bodies of environments."""

from marshmallow import fields

from app.management.common import names
from app.management.common.schemas import (
    ObjectSchema,
    ParsedText,
    RequestSchema,
    change_schema,
    description_field,
    moment_field,
    page_schema,
)
from app.management.environments.domain import NewEnvironment


class EnvironmentCreateSchema(RequestSchema):
    makes = NewEnvironment
    name = ParsedText(
        names.read_environment_name,
        required=True,
        metadata={
            "pattern": f"^{names.ENVIRONMENT_NAME}$",
            "description": "Producers may send it as `environment`, and it is compared letter by letter.",
        },
    )
    description = description_field()


EnvironmentChangeSchema = change_schema(EnvironmentCreateSchema)


class EnvironmentSchema(ObjectSchema):
    project_id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    archived_at = moment_field(may_be_null=True)


EnvironmentPageSchema = page_schema("EnvironmentPage", EnvironmentSchema)
