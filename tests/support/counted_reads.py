"""What was counted of a tenant's reads."""

from typing import Any, NamedTuple

from flask import Flask

from app.context import EXTENSION, Context
from app.credentials.verification import Identity
from tests.support.people import Tenant, rows


class Amounts(NamedTuple):
    requests: int
    events: int
    body_bytes: int


def counted_reads(app: Flask, tenant: Tenant) -> dict[tuple[str, str], Amounts]:
    """What the application has counted of all tokens of the tenant's project, by operation and outcome."""
    context = app.extensions[EXTENSION]
    context.reads.flush()
    return written_reads(context, tenant, project_id=tenant.project_row)


def written_reads(context: Context, tenant: Tenant, **only: int) -> dict[tuple[str, str], Amounts]:
    """What has been written of the workspace; `only`: values that columns must have."""
    conditions = "".join(f" AND {column} = :{column}" for column in only)
    found: list[Any] = rows(
        context,
        "SELECT operation, outcome, sum(requests)::bigint AS requests, sum(events)::bigint AS events,"
        f" sum(body_bytes)::bigint AS body_bytes FROM read_hours WHERE workspace_id = :workspace{conditions}"
        " GROUP BY 1, 2",
        workspace=tenant.workspace_row,
        **only,
    )
    return {(row.operation, row.outcome): Amounts(row.requests, row.events, row.body_bytes) for row in found}


def token_identity(context: Context, tenant: Tenant) -> Identity:
    """Of the tenant's management token."""
    (row,) = rows(context, "SELECT id FROM management_tokens WHERE public_id = :id", id=tenant.token_id)
    return Identity(tenant.token_id, row.id, tenant.workspace_row)
