"""Events as ingest leaves them behind, with their rows of the outbox, and whether their counts are true."""

from datetime import datetime
from typing import Any

from tests.support.installation import Installation
from tests.support.people import Tenant, execute

_TYPES = "(ARRAY['payment.failed', 'payment.settled', 'order.created'])[1 + n % 3]"
_SEVERITIES = "(ARRAY['info', 'error'])[1 + n % 2]"
# A drop is no part of a snapshot: behind this lock the snapshot begins after the last one, and the next one waits.
LOCK_AGAINST_DROPS = "LOCK TABLE ONLY events IN ACCESS SHARE MODE"
DIFFERENCES = """
    SELECT project_id, hour, source_key_id, event_type, severity, sum(events)::int FROM (
        SELECT project_id, date_trunc('hour', received_at, 'UTC') AS hour, source_key_id, event_type, severity,
            count(*) AS events
        FROM events GROUP BY 1, 2, 3, 4, 5
        UNION ALL SELECT project_id, hour, source_key_id, event_type, severity, -events FROM event_hours
        UNION ALL
        SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity, -events
        FROM usage_outbox WHERE event_type IS NOT NULL
    ) AS each GROUP BY 1, 2, 3, 4, 5 HAVING sum(events) <> 0
"""


def receive(installation: Installation, tenant: Tenant, at: datetime, count: int = 1, payload: str = "{}") -> None:
    """Events of three types and two severities, each of a group of its own, in one transaction."""
    execute(
        installation.context,
        "WITH event AS (INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id,"
        " source_id, source_key_id, event_id, event_type, severity, occurred_at, payload)"
        " SELECT :project, :at, gen_random_uuid(), :workspace, environments.id, :source, :key, gen_random_uuid()::text,"
        f" {_TYPES}, {_SEVERITIES}, :at, CAST(:payload AS jsonb)"
        " FROM generate_series(1, :count) AS n, environments WHERE project_id = :project RETURNING *)"
        " INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,"
        " payload_bytes, received_at, environment_id, event_type, severity)"
        " SELECT project_id, (array_agg(event_uid))[1], workspace_id, source_id, source_key_id, 'stored', count(*), 2,"
        " received_at, environment_id, event_type, severity"
        " FROM event GROUP BY 1, 3, 4, 5, 9, 10, 11, 12",
        project=tenant.project_row,
        workspace=tenant.workspace_row,
        source=tenant.source_row,
        key=tenant.key_row,
        at=at,
        count=count,
        payload=payload,
    )


def differences(installation: Installation) -> list[tuple[Any, ...]]:
    """Where counts and events differ, in one snapshot."""
    with installation.owner.connection() as connection, connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute(LOCK_AGAINST_DROPS)
        return connection.execute(DIFFERENCES).fetchall()
