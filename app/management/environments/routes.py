"""/v1/projects/{id}/environments and /v1/environments."""

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
from app.management.environments import domain as environments
from app.management.environments import schemas
from app.management.environments.domain import EnvironmentView, NewEnvironment

blueprint = ManagementBlueprint("environments", __name__, description="Isolated parts of a project")


@blueprint.operation(
    "POST",
    "/v1/projects/<project_id>/environments",
    role=Role.DEVELOPER,
    refuses=[Conflict],
    shown_by="read_environment",
)
@blueprint.arguments(schemas.EnvironmentCreateSchema, example={"name": "qa-2", "description": "For the testers"})
@blueprint.response(201, schemas.EnvironmentSchema)
def create_environment(operator: Operator, new: NewEnvironment, project_id: str) -> tuple[EnvironmentView, Headers]:
    """Create an environment in a project."""
    environment = environments.create_environment(management_database(), operator, project_id, new)
    return created(environment, ".read_environment", environment_id=environment.id)


@blueprint.operation("GET", "/v1/projects/<project_id>/environments", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(ArchivedQuerySchema, location="query")
@blueprint.response(200, schemas.EnvironmentPageSchema)
def list_environments(
    operator: Operator, page: PageRequest, only: dict[str, bool], project_id: str
) -> Page[EnvironmentView]:
    """List a project's environments, in the order in which they were made."""
    return environments.list_environments(management_database(), operator, project_id, page, **only)


@blueprint.operation("GET", "/v1/environments/<environment_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.EnvironmentSchema)
def read_environment(operator: Operator, environment_id: str) -> tuple[EnvironmentView, Headers]:
    """Read an environment."""
    return shown(environments.read_environment(management_database(), operator, environment_id))


@blueprint.operation(
    "PATCH",
    "/v1/environments/<environment_id>",
    role=Role.DEVELOPER,
    refuses=[PreconditionRequired, Conflict, PreconditionFailed],
)
@blueprint.arguments(schemas.EnvironmentChangeSchema, example={"description": "For testers and customers' previews"})
@blueprint.response(200, schemas.EnvironmentSchema)
def update_environment(operator: Operator, change: Change, environment_id: str) -> tuple[EnvironmentView, Headers]:
    """Change an environment's name or description.

    Events that name the old `environment` are refused from then on.
    """
    return shown(
        environments.change_environment(management_database(), operator, stated_target(environment_id), change)
    )


@blueprint.operation("DELETE", "/v1/environments/<environment_id>", role=Role.ADMIN, refuses=[PreconditionFailed])
@blueprint.response(204)
def archive_environment(operator: Operator, environment_id: str) -> Response:
    """Archive an environment.

    Its sources and keys go with it: none of the keys can send events any more. Its events stay.
    """
    environments.archive_environment(management_database(), operator, target(environment_id))
    return gone()


@blueprint.operation(
    "POST",
    "/v1/environments/<environment_id>/restore",
    role=Role.ADMIN,
    refuses=[Conflict, PreconditionFailed],
    shown_by="read_environment",
)
@blueprint.response(200, schemas.EnvironmentSchema)
def restore_environment(operator: Operator, environment_id: str) -> tuple[EnvironmentView, Headers]:
    """Take an archived environment back into use. Safe to repeat.

    Its sources come back with it, but no key: those that were live are revoked.
    """
    return shown(environments.restore_environment(management_database(), operator, target(environment_id)))
