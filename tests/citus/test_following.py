"""Readers see each event once and in order, through every node, wherever the cell has moved meanwhile."""

from collections.abc import Callable

import pytest

from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from tests.support.citus import CitusCell, Node
from tests.support.citus_load import apps_on
from tests.support.following import Consumer
from tests.support.operating import api_of
from tests.support.people import Tenant, rows
from tests.support.sending import event_for, send

pytestmark = pytest.mark.citus


def test_a_follower_through_each_node_sees_each_event_once_and_in_order_while_the_cell_moves(
    cell: CitusCell, credentials: Credentials, tenant: Callable[[], Tenant]
) -> None:
    alice, coordinator = tenant(), cell.nodes()[0]
    sent: list[str] = []
    with apps_on(cell, cell.nodes(), credentials) as apps:
        followers = [Consumer(api_of(app, alice), alice.project_id) for app in apps]
        for _ in range(4):
            for app in apps:
                sent.append(f"followed-{len(sent)}")
                assert send(app.test_client(), alice, event_for(alice, event_id=sent[-1])).status_code == 201
            for follower in followers:
                follower.catch_up()
            cell.move(next(node for node in cell.others() if node != coordinator))
            # Before anything is stored where the cell has come to.
            for follower in followers:
                assert follower.catch_up() == []
        context: Context = apps[0].extensions[EXTENSION]
        positions = [row.position for row in rows(context, "SELECT max(position) AS position FROM events")]

    assert [follower.seen for follower in followers] == [sent] * len(followers)
    # An advisory lock has 48 bits for a position.
    assert positions[0] < 1 << 48


def test_rows_are_numbered_in_the_range_of_the_cell_whatever_node_is_asked(
    cell: CitusCell, credentials: Credentials, alice: Tenant
) -> None:
    found: dict[Node, int] = {}
    with apps_on(cell, cell.nodes(), credentials) as apps:
        for node, app in zip(cell.nodes(), apps, strict=True):
            made = api_of(app, alice).post("/v1/projects", {"name": f"through {node.port}"})
            assert made.status_code == 201
            context: Context = app.extensions[EXTENSION]
            found[node] = rows(context, "SELECT max(id) AS id FROM projects")[0].id

    assert all(
        id_ in range(alice.workspace_row & ~0xFFFFFFFF, (alice.workspace_row | 0xFFFFFFFF) + 1)
        for id_ in found.values()
    )
