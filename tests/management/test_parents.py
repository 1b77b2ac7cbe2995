"""A child is never made in a parent that is archived at the same moment."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from app.context import Context
from app.database.advisory_locks import exclude_parents
from app.database.engine import TenantScope
from tests.support.operating import ApiClient
from tests.support.people import Tenant, rows
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_WAITING = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND mode = 'ShareLock' AND NOT granted"


@pytest.mark.parametrize(
    ("child", "parent"),
    [
        ("environment", "projects"),
        ("source", "environments"),
        ("source", "projects"),
        ("key", "sources"),
        ("key", "environments"),
        ("key", "projects"),
        ("successor", "sources"),
        ("successor", "projects"),
        ("token", "projects"),
    ],
)
def test_what_is_made_while_a_parent_is_archived_waits_and_is_then_refused(
    context: Context, api: ApiClient, alice: Tenant, child: str, parent: str
) -> None:
    path, body = {
        "environment": (f"/v1/projects/{alice.project_id}/environments", {"name": "late"}),
        "source": (f"/v1/environments/{alice.environment_id}/sources", {"name": "late", "type": "erp"}),
        "key": (f"/v1/sources/{alice.source_id}/keys", {}),
        "successor": (f"/v1/keys/{alice.key_id}/rotate", {}),
        "token": ("/v1/tokens", {"role": "auditor", "project_ids": [alice.project_id]}),
    }[child]
    archive = text(f"UPDATE {parent} SET archived_at = now() WHERE workspace_id = :id")

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            exclude_parents(session, alice.workspace_row)  # as what archives does
            session.execute(archive, {"id": alice.workspace_row})
            pending = pool.submit(api.post, path, body)
            wait_until(lambda: pending.done() or rows(context, _WAITING))
        # A token names its project in its body, the others in the path.
        assert pending.result(timeout=10).status_code == (422 if child == "token" else 404)
