"""`migrate` makes a schema a cell of the cluster, and goes on to do so what a migration has made anew."""

from dataclasses import replace

import psycopg
import pytest
from psycopg import sql

from app.context import Context
from app.credentials.verification import Credentials
from app.database.citus.distribute import ClusterError
from app.database.conninfo import conninfo_of
from app.database.migrate import migrate
from tests.support.citus import CitusCell
from tests.support.citus_load import apps_on
from tests.support.people import Tenant
from tests.support.sending import send

pytestmark = pytest.mark.citus
_TABLES_ELSEWHERE = """
    SELECT count(*) FROM pg_class LEFT JOIN pg_dist_partition ON logicalrelid = pg_class.oid
    WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p') AND logicalrelid IS NULL
"""
_BODY = "SELECT prosrc FROM pg_proc WHERE pronamespace = %s::regnamespace AND proname = 'store_events'"


def test_every_table_of_the_cell_is_distributed(cell: CitusCell) -> None:
    with cell.coordinator() as connection:
        assert connection.execute(_TABLES_ELSEWHERE, [cell.schema]).fetchone() == (0,)


def test_a_function_that_a_migration_has_made_anew_is_made_to_enter_the_cell_again(
    cell: CitusCell, credentials: Credentials, alice: Tenant
) -> None:
    before = _bodies(cell)
    with psycopg.connect(cell.settings.admin_database_url, autocommit=True) as owner:
        plain = "INSERT INTO event_ledger ("
        definition = owner.execute("SELECT pg_get_functiondef('store_events'::regproc)").fetchone()
        assert definition is not None
        named = definition[0].replace("    PERFORM enter_cell();\n", "").replace("INSERT INTO event_ledger_", plain)
        shard = named.partition(plain)[2].partition(" (")[0]
        owner.execute(named.replace(f"{plain}{shard} (", plain))
    assert _bodies(cell) != before

    migrate(cell.settings)

    assert _bodies(cell) == before
    with apps_on(cell, cell.nodes(), credentials) as apps:
        assert [send(app.test_client(), alice).status_code for app in apps] == [201] * len(apps)


def test_the_days_of_events_are_made_through_the_coordinator(cell: CitusCell, context: Context) -> None:
    with psycopg.connect(cell.settings.admin_database_url, autocommit=True) as owner:
        made = owner.execute("SELECT make_event_partitions((now() AT TIME ZONE 'UTC')::date + 20, 2)").fetchone()
    assert made == (2,)
    with cell.coordinator() as connection:
        assert connection.execute(_TABLES_ELSEWHERE, [cell.schema]).fetchone() == (0,)


def test_on_a_worker_it_says_where_to_migrate(cell: CitusCell) -> None:
    worker = cell.nodes()[-1]
    owner = conninfo_of(cell.settings.admin_database_url)
    url = f"postgresql://{owner['user']}:test@{worker.host}:{worker.port}/{owner['dbname']}"
    with pytest.raises(ClusterError, match="coordinator"):
        migrate(replace(cell.settings, admin_database_url=url))


def _bodies(cell: CitusCell) -> list[str]:
    """Of store_events, on each node."""
    found = []
    for node in cell.nodes():
        keywords = conninfo_of(cell.cluster_url) | {"host": node.host, "port": node.port}
        with psycopg.connect(**keywords) as connection:
            row = connection.execute(sql.SQL(_BODY), [cell.schema]).fetchone()
        assert row is not None
        found.append(str(row[0]))
    return found
