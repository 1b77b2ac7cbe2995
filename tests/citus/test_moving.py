"""A cell that moves from node to node loses nothing, stores nothing twice, and nothing of a revoked key."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from tests.support.citus import CitusCell, Node, insert_apart
from tests.support.citus_load import Load, apps_on, require_kept
from tests.support.people import Tenant, make_tenant
from tests.support.sending import send

pytestmark = pytest.mark.citus
_MOVES = 6


def test_no_event_is_lost_or_stored_twice_while_the_cell_moves(
    cell: CitusCell, credentials: Credentials, alice: Tenant
) -> None:
    nodes = cell.nodes()
    with apps_on(cell, nodes, credentials) as apps, Load(apps, alice).running() as load:
        for _ in range(_MOVES):
            load.wait_for(100)
            cell.move(_next(cell))
        load.wait_for(100)

    require_kept(cell, alice, load)
    assert set(load.statuses) == {200, 201}


def test_nothing_is_stored_with_a_key_that_was_revoked_while_the_cell_moves(
    cell: CitusCell, credentials: Credentials
) -> None:
    nodes = cell.nodes()
    with apps_on(cell, nodes, credentials) as apps, ThreadPoolExecutor(1) as pool:
        context: Context = apps[0].extensions[EXTENSION]
        tenants = [make_tenant(context, insert_apart) for _ in range(8)]
        moving = pool.submit(lambda: [cell.move(_next(cell)) for _ in range(4)])
        for number, tenant in enumerate(tenants):
            with Load(apps, tenant).running() as load:
                load.wait_for(20)
                through = apps[number % len(apps)].test_client()
                status = 503
                while status == 503:
                    status = through.post(f"/v1/keys/{tenant.key_id}/revoke", headers=tenant.bearer).status_code
                answered_at = time.monotonic()
                assert [send(app.test_client(), tenant).status_code for app in apps] == [401] * len(apps)
            assert status == 200
            late = [name for name, sent_at in load.stored.items() if sent_at > answered_at]
            assert late == []
            require_kept(cell, tenant, load)
        moving.result()


def _next(cell: CitusCell) -> Node:
    coordinator = cell.nodes()[0]
    return next(node for node in cell.others() if node != coordinator)
