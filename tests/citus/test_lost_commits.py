"""A batch whose connection from node to node is lost before COMMIT is not answered as stored, or it is."""

import threading

import psycopg
import pytest
from flask.testing import FlaskClient
from sqlalchemy.orm import Session

from app.context import Context
from app.database.conninfo import conninfo_of
from tests.support.citus import CitusCell
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, event_for, send

pytestmark = pytest.mark.citus
_END_OPEN_ONES = """
    SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
    WHERE application_name LIKE 'citus_internal%' AND state = 'idle in transaction' AND datname = current_database()
"""


@pytest.mark.parametrize("key", [None, "once"])
def test_a_batch_is_stored_once_although_its_node_was_lost_before_the_commit(
    cell: CitusCell,
    client: FlaskClient,
    context: Context,
    alice: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    key: str | None,
) -> None:
    # From then on the key is in memory, so the first commit is the batch's.
    assert send(client, alice, event_for(alice, event_id="before")).status_code == 201
    ended: list[int] = []
    commit, here = Session.commit, threading.current_thread()

    def lose_and_commit(session: Session) -> None:
        if threading.current_thread() is here and not ended:
            ended.append(_end_open_ones(cell))
        commit(session)

    monkeypatch.setattr(Session, "commit", lose_and_commit)
    events = [event_for(alice, event_id=f"lost-{n}") for n in range(3)]
    headers = {"X-API-Key": alice.key} | ({"Idempotency-Key": key} if key else {})

    answer = client.post(f"{PATH}/batch", json={"events": events}, headers=headers)

    assert ended != [0]
    assert answer.status_code == 200, answer.data
    assert sorted(row.event_id for row in events_of(context, alice)) == ["before", *(f"lost-{n}" for n in range(3))]


def _end_open_ones(cell: CitusCell) -> int:
    owner = cell.owner()
    keywords = conninfo_of(cell.cluster_url) | {"host": owner.host, "port": owner.port}
    with psycopg.connect(**keywords, autocommit=True) as connection:
        return len(connection.execute(_END_OPEN_ONES).fetchall())
