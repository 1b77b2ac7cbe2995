"""The bodies of projects."""

from marshmallow import fields

from app.management.common.schemas import (
    ObjectSchema,
    RequestSchema,
    change_schema,
    description_field,
    moment_field,
    name_field,
    page_schema,
)
from app.management.environments.schemas import EnvironmentSchema
from app.management.projects.domain import NewProject


class ProjectCreateSchema(RequestSchema):
    makes = NewProject
    name = name_field()
    description = description_field()


ProjectChangeSchema = change_schema(ProjectCreateSchema)


class ProjectSchema(ObjectSchema):
    name = fields.String(required=True)
    description = fields.String(required=True)
    archived_at = moment_field(may_be_null=True)


class CreatedProjectSchema(ProjectSchema):
    environments = fields.List(
        fields.Nested(EnvironmentSchema),
        required=True,
        metadata={"description": "Those that it is created with, in the order of their creation."},
    )


ProjectPageSchema = page_schema("ProjectPage", ProjectSchema)
