"""/v1/usage, and the usage of one key, source or project."""

from dataclasses import replace

from app.context import management_database
from app.errors import NotFound
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.usage import domain as usage
from app.management.usage import schemas
from app.management.usage.domain import Grouping, Usage, UsageQuery

blueprint = ManagementBlueprint("usage", __name__, description="How much was sent, and by whom")


@blueprint.operation("GET", "/v1/usage", role=Role.AUDITOR, refuses=[NotFound])
@blueprint.arguments(schemas.UsageQuerySchema, location="query")
@blueprint.response(200, schemas.UsageSchema)
def read_usage(operator: Operator, query: UsageQuery) -> Usage:
    """Count the workspace's events per hour or day, by key, source or project.

    Up to 2,000 counts, one per interval and group in which something happened; a question for more is refused with 422.
    """
    return usage.read_usage(management_database(), operator, query)


@blueprint.operation("GET", "/v1/keys/<key_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(schemas.UsageOfOneQuerySchema, location="query")
@blueprint.response(200, schemas.UsageSchema)
def read_usage_of_key(operator: Operator, query: UsageQuery, key_id: str) -> Usage:
    """Count a key's events per hour or day, also of a revoked one."""
    only = replace(query, group_by=Grouping.KEY, key_id=key_id)
    return usage.read_usage(management_database(), operator, only)


@blueprint.operation("GET", "/v1/sources/<source_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(schemas.UsageOfOneQuerySchema, location="query")
@blueprint.response(200, schemas.UsageSchema)
def read_usage_of_source(operator: Operator, query: UsageQuery, source_id: str) -> Usage:
    """Count a source's events per hour or day, also of an archived one."""
    only = replace(query, group_by=Grouping.SOURCE, source_id=source_id)
    return usage.read_usage(management_database(), operator, only)


@blueprint.operation("GET", "/v1/projects/<project_id>/usage", role=Role.AUDITOR)
@blueprint.arguments(schemas.UsageOfOneQuerySchema, location="query")
@blueprint.response(200, schemas.UsageSchema)
def read_usage_of_project(operator: Operator, query: UsageQuery, project_id: str) -> Usage:
    """Count a project's events per hour or day, also of an archived one."""
    only = replace(query, group_by=Grouping.PROJECT, project_id=project_id)
    return usage.read_usage(management_database(), operator, only)
