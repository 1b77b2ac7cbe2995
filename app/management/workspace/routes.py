"""/v1/workspace: the token's own."""

from typing import Any

from marshmallow import fields, post_load, validate

from app.context import current_context
from app.errors import PreconditionFailed, PreconditionRequired
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.openapi import SHOWN
from app.management.common.operators import Operator, Role
from app.management.common.parsing import stated_condition
from app.management.common.responses import Headers, shown
from app.management.common.schemas import ObjectSchema, RequestSchema, choice_field, name_field, rate_field
from app.management.workspace import domain as workspaces
from app.management.workspace.domain import WorkspaceChange, WorkspaceView
from app.models import WorkspaceStatus

blueprint = ManagementBlueprint("workspace", __name__, description="The tenant itself")

_RETENTION_DAYS_MAX = 36_500


class WorkspaceChangeSchema(RequestSchema):
    """The body that changes it: what is absent stays."""

    name = name_field(required=False)
    retention_days = fields.Integer(
        strict=True,
        allow_none=True,
        validate=validate.Range(1, _RETENTION_DAYS_MAX),
        metadata={"description": "How many days events are kept; null: as long as the installation keeps them."},
    )
    key_events_per_second = rate_field()

    @post_load
    def _change(self, data: dict[str, Any], **_: Any) -> WorkspaceChange:
        return WorkspaceChange(**data)


class WorkspaceSchema(ObjectSchema):
    """A workspace."""

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


@blueprint.operation("GET", "/v1/workspace", role=Role.AUDITOR)
@blueprint.response(200, WorkspaceSchema, headers=SHOWN)
def read_workspace(operator: Operator) -> tuple[WorkspaceView, Headers]:
    """Read the workspace that the token belongs to."""
    return shown(workspaces.read_workspace(current_context().management.database, operator))


@blueprint.operation(
    "PATCH",
    "/v1/workspace",
    role=Role.ADMIN,
    is_for_whole_workspace=True,
    refuses=[PreconditionRequired, PreconditionFailed],
)
@blueprint.arguments(WorkspaceChangeSchema, example={"retention_days": 90})
@blueprint.response(200, WorkspaceSchema, headers=SHOWN)
def update_workspace(operator: Operator, change: WorkspaceChange) -> tuple[WorkspaceView, Headers]:
    """Change the workspace's name, how long events are kept, or the rate limit of its keys."""
    return shown(
        workspaces.change_workspace(current_context().management.database, operator, stated_condition(), change)
    )
