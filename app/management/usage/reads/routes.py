"""/v1/usage/reads."""

from app.context import management_database
from app.errors import NotFound
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.usage.reads import domain as reads
from app.management.usage.reads import schemas
from app.management.usage.reads.domain import ReadsQuery, ReadUsage

blueprint = ManagementBlueprint("reads", __name__, description="How much was read, and by whom")


@blueprint.operation("GET", "/v1/usage/reads", role=Role.AUDITOR, refuses=[NotFound])
@blueprint.arguments(schemas.ReadsQuerySchema, location="query")
@blueprint.response(200, schemas.ReadingUsageSchema)
def read_usage_of_readers(operator: Operator, query: ReadsQuery) -> ReadUsage:
    """Count what was read of the workspace's events per hour or day, by token, project or operation.

    Requests, the events and bytes that they were shown, and what was refused. Up to 2,000 counts, one per interval and
    group in which something was asked for; a question for more is refused with 422.
    """
    return reads.count_reads(management_database(), operator, query)
