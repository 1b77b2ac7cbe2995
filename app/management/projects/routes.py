"""/v1/projects."""

from typing import Any

from flask import Response
from marshmallow import fields, post_load

from app.context import current_context
from app.errors import Conflict, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.openapi import CREATED, SHOWN
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import (
    ArchivedQuerySchema,
    ObjectSchema,
    PageQuerySchema,
    RequestSchema,
    description_field,
    moment_field,
    name_field,
    page_schema,
)
from app.management.environments.routes import EnvironmentSchema
from app.management.projects import creation as new_projects
from app.management.projects import domain as projects
from app.management.projects.creation import CreatedProject
from app.management.projects.domain import NewProject, ProjectChange, ProjectView

blueprint = ManagementBlueprint("projects", __name__, description="Products of the workspace")


class ProjectCreateSchema(RequestSchema):
    """The body that creates a project."""

    name = name_field(required=True)
    description = description_field()

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> NewProject:
        return NewProject(**data)


class ProjectChangeSchema(RequestSchema):
    """The body that changes one: what is absent stays."""

    name = name_field(required=False)
    description = description_field()

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> ProjectChange:
        return ProjectChange(**data)


class ProjectSchema(ObjectSchema):
    """A project."""

    name = fields.String(required=True)
    description = fields.String(required=True)
    archived_at = moment_field(may_be_null=True)


class CreatedProjectSchema(ProjectSchema):
    """A project in the answer that creates it."""

    environments = fields.List(
        fields.Nested(EnvironmentSchema),
        required=True,
        metadata={"description": "Those it is born with, in their order."},
    )


@blueprint.operation(
    "POST", "/v1/projects", role=Role.ADMIN, is_for_whole_workspace=True, refuses=[Conflict], shown_by="read_project"
)
@blueprint.arguments(ProjectCreateSchema, example={"name": "Shop", "description": "All that sells"})
@blueprint.response(201, CreatedProjectSchema, headers=CREATED)
def create_project(operator: Operator, new: NewProject) -> tuple[CreatedProject, Headers]:
    """Create a project, with the environments production, staging and development, which the answer shows."""
    project = new_projects.create_project(current_context().management.database, operator, new)
    return created(project, ".read_project", project_id=project.id)


@blueprint.shows_again("create_project")
@blueprint.response(201, CreatedProjectSchema)
def show_created(operator: Operator, project_id: str) -> tuple[CreatedProject, Headers]:
    """Show a project as its creation did."""
    return shown(new_projects.read_created_project(current_context().management.database, operator, project_id))


@blueprint.operation("GET", "/v1/projects", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(ArchivedQuerySchema, location="query")
@blueprint.response(200, page_schema("ProjectPage", ProjectSchema))
def list_projects(operator: Operator, page: PageRequest, only: dict[str, bool]) -> Page[ProjectView]:
    """List the workspace's projects, newest first."""
    return projects.list_projects(current_context().management.database, operator, page, **only)


@blueprint.operation("GET", "/v1/projects/<project_id>", role=Role.AUDITOR)
@blueprint.response(200, ProjectSchema, headers=SHOWN)
def read_project(operator: Operator, project_id: str) -> tuple[ProjectView, Headers]:
    """Read a project."""
    return shown(projects.read_project(current_context().management.database, operator, project_id))


@blueprint.operation(
    "PATCH", "/v1/projects/<project_id>", role=Role.ADMIN, refuses=[PreconditionRequired, Conflict, PreconditionFailed]
)
@blueprint.arguments(ProjectChangeSchema, example={"description": "All that sells, and returns"})
@blueprint.response(200, ProjectSchema, headers=SHOWN)
def update_project(operator: Operator, change: ProjectChange, project_id: str) -> tuple[ProjectView, Headers]:
    """Change a project's name or description."""
    return shown(
        projects.change_project(current_context().management.database, operator, stated_target(project_id), change)
    )


@blueprint.operation("DELETE", "/v1/projects/<project_id>", role=Role.ADMIN, refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_project(operator: Operator, project_id: str) -> Response:
    """Archive a project.

    Its environments, sources and keys go with it: none of the keys can send events any more. Its events stay.
    """
    projects.archive_project(current_context().management.database, operator, target(project_id))
    return gone()


@blueprint.operation(
    "POST",
    "/v1/projects/<project_id>/restore",
    role=Role.ADMIN,
    refuses=[Conflict, PreconditionFailed],
    shown_by="read_project",
)
@blueprint.response(200, ProjectSchema, headers=SHOWN)
def restore_project(operator: Operator, project_id: str) -> tuple[ProjectView, Headers]:
    """Take an archived project back into use. Safe to repeat.

    Its environments and sources come back with it, but no key: those that were live are revoked.
    """
    return shown(projects.restore_project(current_context().management.database, operator, target(project_id)))
