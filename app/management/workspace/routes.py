"""/v1/workspace: the token's own."""

from dataclasses import replace

from app.context import current_context, management_database
from app.errors import PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.mutations import Change
from app.management.common.operators import Operator, Role
from app.management.common.parsing import stated_condition
from app.management.common.responses import Headers, shown
from app.management.workspace import domain as workspaces
from app.management.workspace import schemas
from app.management.workspace.domain import WorkspaceView

blueprint = ManagementBlueprint("workspace", __name__, description="The tenant itself")


@blueprint.operation("GET", "/v1/workspace", role=Role.AUDITOR)
@blueprint.response(200, schemas.WorkspaceSchema)
def read_workspace(operator: Operator) -> tuple[WorkspaceView, Headers]:
    """Read the workspace that the token belongs to."""
    return shown(_in_its_cell(workspaces.read_workspace(management_database(), operator)))


@blueprint.operation(
    "PATCH",
    "/v1/workspace",
    role=Role.ADMIN,
    is_for_whole_workspace=True,
    refuses=[PreconditionRequired, PreconditionFailed],
)
@blueprint.arguments(schemas.WorkspaceChangeSchema, example={"retention_days": 90})
@blueprint.response(200, schemas.WorkspaceSchema)
def update_workspace(operator: Operator, change: Change) -> tuple[WorkspaceView, Headers]:
    """Change the workspace's name, how long events are kept, or the rate limit of its keys."""
    changed = workspaces.change_workspace(management_database(), operator, stated_condition(), change)
    return shown(_in_its_cell(changed))


def _in_its_cell(workspace: WorkspaceView) -> WorkspaceView:
    return replace(workspace, cell=current_context().settings.cell or None)
