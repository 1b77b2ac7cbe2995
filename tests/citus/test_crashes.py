"""A node that crashes takes nothing with it that was answered, and stops nobody for longer than it is away."""

import contextlib

import psycopg
import pytest

from app.credentials.verification import Credentials
from app.database.conninfo import conninfo_of
from tests.support.citus import CitusCell, Node
from tests.support.citus_load import Load, apps_on, require_kept
from tests.support.people import Tenant

pytestmark = pytest.mark.citus


@pytest.mark.parametrize("which", ["the coordinator", "the cell's node", "another worker"])
def test_a_crash_loses_no_event_that_was_answered(
    cell: CitusCell, credentials: Credentials, alice: Tenant, which: str
) -> None:
    owner, coordinator = cell.owner(), cell.nodes()[0]
    bystander = next(node for node in cell.nodes() if node not in (owner, coordinator))
    node = {"the coordinator": coordinator, "the cell's node": owner, "another worker": bystander}[which]
    with apps_on(cell, cell.nodes(), credentials) as apps, Load(apps, alice).running() as load:
        for _ in range(3):
            load.wait_for(100)
            _crash(cell, node)
        load.wait_for(300)

    require_kept(cell, alice, load)
    assert set(load.statuses) <= {200, 201, 409, 503}


def _crash(cell: CitusCell, node: Node) -> None:
    """Kill one of its processes with SIGKILL: PostgreSQL then ends all others and recovers from its log."""
    keywords = conninfo_of(cell.cluster_url) | {"host": node.host, "port": node.port}
    with contextlib.suppress(psycopg.OperationalError), psycopg.connect(**keywords, autocommit=True) as connection:
        connection.execute("COPY (SELECT 1) TO PROGRAM 'kill -9 $PPID'")
