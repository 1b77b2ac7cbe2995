"""The bodies of environments."""

from marshmallow import fields

from app.management.common import names
from app.management.common.schemas import (
    ChangeSchema,
    ObjectSchema,
    ParsedText,
    RequestSchema,
    description_field,
    moment_field,
    page_schema,
)
from app.management.environments.domain import NewEnvironment


def _name_field(*, required: bool) -> fields.String:
    described = {
        "pattern": f"^{names.ENVIRONMENT_NAME}$",
        "description": "Producers may send it as `environment`, and it is compared letter by letter.",
    }
    return ParsedText(names.read_environment_name, required=required, metadata=described)


class EnvironmentCreateSchema(RequestSchema):
    makes = NewEnvironment
    name = _name_field(required=True)
    description = description_field()


class EnvironmentChangeSchema(ChangeSchema):
    name = _name_field(required=False)
    description = description_field()


class EnvironmentSchema(ObjectSchema):
    project_id = fields.String(required=True)
    name = fields.String(required=True)
    description = fields.String(required=True)
    archived_at = moment_field(may_be_null=True)


EnvironmentPageSchema = page_schema("EnvironmentPage", EnvironmentSchema)
