"""/v1/projects."""

from flask import Response

from app.context import management_database
from app.errors import Conflict, PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.mutations import Change
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import stated_target, target
from app.management.common.responses import Headers, created, gone, shown
from app.management.common.schemas import ArchivedQuerySchema, PageQuerySchema
from app.management.projects import domain as projects
from app.management.projects import schemas
from app.management.projects.domain import CreatedProject, NewProject, ProjectView

blueprint = ManagementBlueprint("projects", __name__, description="Products of the workspace")


@blueprint.operation(
    "POST", "/v1/projects", role=Role.ADMIN, is_for_whole_workspace=True, refuses=[Conflict], shown_by="read_project"
)
@blueprint.arguments(schemas.ProjectCreateSchema, example={"name": "Shop", "description": "All that sells"})
@blueprint.response(201, schemas.CreatedProjectSchema)
def create_project(operator: Operator, new: NewProject) -> tuple[CreatedProject, Headers]:
    """Create a project, with the environments production, staging and development, which the answer shows."""
    project = projects.create_project(management_database(), operator, new)
    return created(project, ".read_project", project_id=project.id)


@blueprint.shows_again("create_project")
@blueprint.response(201, schemas.CreatedProjectSchema)
def show_created(operator: Operator, project_id: str) -> tuple[CreatedProject, Headers]:
    """Show a project as its creation did."""
    return shown(projects.read_created_project(management_database(), operator, project_id))


@blueprint.operation("GET", "/v1/projects", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(ArchivedQuerySchema, location="query")
@blueprint.response(200, schemas.ProjectPageSchema)
def list_projects(operator: Operator, page: PageRequest, only: dict[str, bool]) -> Page[ProjectView]:
    """List the workspace's projects, newest first."""
    return projects.list_projects(management_database(), operator, page, **only)


@blueprint.operation("GET", "/v1/projects/<project_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.ProjectSchema)
def read_project(operator: Operator, project_id: str) -> tuple[ProjectView, Headers]:
    """Read a project."""
    return shown(projects.read_project(management_database(), operator, project_id))


@blueprint.operation(
    "PATCH", "/v1/projects/<project_id>", role=Role.ADMIN, refuses=[PreconditionRequired, Conflict, PreconditionFailed]
)
@blueprint.arguments(schemas.ProjectChangeSchema, example={"description": "All that sells, and returns"})
@blueprint.response(200, schemas.ProjectSchema)
def update_project(operator: Operator, change: Change, project_id: str) -> tuple[ProjectView, Headers]:
    """Change a project's name or description."""
    return shown(projects.change_project(management_database(), operator, stated_target(project_id), change))


@blueprint.operation("DELETE", "/v1/projects/<project_id>", role=Role.ADMIN, refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_project(operator: Operator, project_id: str) -> Response:
    """Archive a project.

    Its environments, sources and keys go with it: none of the keys can send events any more. Its events stay.
    """
    projects.archive_project(management_database(), operator, target(project_id))
    return gone()


@blueprint.operation(
    "POST",
    "/v1/projects/<project_id>/restore",
    role=Role.ADMIN,
    refuses=[Conflict, PreconditionFailed],
    shown_by="read_project",
)
@blueprint.response(200, schemas.ProjectSchema)
def restore_project(operator: Operator, project_id: str) -> tuple[ProjectView, Headers]:
    """Take an archived project back into use. Safe to repeat.

    Its environments and sources come back with it, but no key: those that were live are revoked.
    """
    return shown(projects.restore_project(management_database(), operator, target(project_id)))
