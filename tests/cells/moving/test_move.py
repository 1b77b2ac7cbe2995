"""A workspace that moves to another cell: all of it, once, and nothing of it is in both."""

from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from flask.testing import FlaskClient

from app.cells.moving.move import Move
from app.cells.moving.stages import MoveError
from app.cells.routing import read_exceptions
from app.maintenance.usage import fold_usage
from tests.support.cells import Cell
from tests.support.operating import ApiClient, api_of
from tests.support.people import Tenant, execute, make_tenant, rows
from tests.support.sending import error_of, event_for, send

_EVENT_OF_DAY = """
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload, position)
    SELECT project_id, %(day)s::date + interval '1 hour', gen_random_uuid(), workspace_id, environment_id, source_id,
        source_key_id, 'of that day', event_type, severity, occurred_at, payload, position
    FROM events WHERE project_id = %(project)s ORDER BY position DESC LIMIT 1
"""
_HOT = ("events", "event_ledger", "idempotency_records", "event_hours", "usage_hours", "usage_outbox", "event_segments")


@pytest.fixture(name="erin")
def _erin(old: Cell) -> Tenant:
    """Lives in the old cell, with events, a consumer and a neighbour."""
    tenant = make_tenant(old.context)
    client = old.app.test_client()
    for number in range(20):
        body = event_for(tenant, event_id=f"e{number}", payload={"number": number, "amount": 12.50})
        assert send(client, tenant, body, idempotency_key=f"k{number}").status_code == 201
    consumer = {"project_id": tenant.project_id}
    assert _api(old, tenant).call("PUT", "/v1/consumers/billing", consumer).status_code == 201
    fold_usage(old.context.database)
    assert send(client, tenant, event_for(tenant, event_id="last")).status_code == 201
    return tenant


def _api(cell: Cell, tenant: Tenant) -> ApiClient:
    return api_of(cell.app, tenant)


def _client(cell: Cell) -> FlaskClient:
    return cell.app.test_client()


def _move(old: Cell, new: Cell, tenant: Tenant) -> Move:
    return Move(old.settings, new.settings, tenant.workspace_id)


def _shown(cell: Cell, tenant: Tenant) -> dict[str, Any]:
    """What its owner reads."""
    api = _api(cell, tenant)
    paths = ("/v1/projects", "/v1/sources", "/v1/keys", "/v1/tokens", "/v1/audit", "/v1/consumers")
    shown: dict[str, Any] = {path: api.get(path).json for path in paths}
    project = {"project_id": tenant.project_id}
    shown["search"] = (api.get("/v1/events", limit=100, **project).json or {})["data"]
    shown["feed"] = (api.get("/v1/events/feed", limit=100, cursor="start", **project).json or {})["data"]
    shown["counts"] = (api.get("/v1/events/counts", group_by="type", **project).json or {})["total"]
    return shown


def _left(cell: Cell, tenant: Tenant) -> dict[str, int]:
    counts = {
        table: rows(cell.context, f"SELECT 1 FROM {table} WHERE workspace_id = :id", id=tenant.workspace_row)
        for table in _HOT
    }
    return {table: len(found) for table, found in counts.items() if found}


def test_its_owner_finds_all_of_it_in_the_new_cell(old: Cell, new: Cell, erin: Tenant) -> None:
    before = _shown(old, erin)

    _move(old, new, erin).run()

    assert _shown(new, erin) == before
    assert len(before["search"]) == len(before["feed"]) == before["counts"] == 21


def test_the_old_cell_names_the_new_one_to_its_keys_and_tokens_and_has_nothing_else(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    _move(old, new, erin).run()

    for response in (
        send(_client(old), erin),
        _client(old).post(
            "/v1/events/ingest/batch", json={"events": [event_for(erin)]}, headers={"X-API-Key": erin.key}
        ),
        _client(old).get("/v1/events/ingest/last", headers={"X-API-Key": erin.key}),
        _client(old).get("/v1/projects", headers=erin.bearer),
        _api(old, erin).post("/v1/projects", {"name": "another"}),
    ):
        assert response.status_code == 421, response.json
        assert error_of(response)["code"] == "wrong_cell"
        assert response.headers["Lariba-Cell"] == "us1"
    assert _left(old, erin) == {}


def test_in_the_new_cell_it_goes_on_as_if_nothing_had_been(old: Cell, new: Cell, erin: Tenant) -> None:
    api = _api(old, erin)
    cursor = (api.get("/v1/events/feed", project_id=erin.project_id, cursor="now").json or {})["next_cursor"]
    _move(old, new, erin).run()
    client, api = _client(new), _api(new, erin)

    again = send(
        client, erin, event_for(erin, event_id="e3", payload={"number": 3, "amount": 12.50}), idempotency_key="k3"
    )
    assert (again.status_code, again.headers["Idempotent-Replayed"]) == (201, "true")
    known = send(client, erin, event_for(erin, event_id="last"))
    assert (known.status_code, (known.json or {})["status"]) == (200, "duplicate")
    assert send(client, erin, event_for(erin, event_id="after")).status_code == 201
    page = api.get("/v1/events/feed", project_id=erin.project_id, cursor=cursor).json or {}
    assert [event["event_id"] for event in page["data"]] == ["after"]
    assert api.post(f"/v1/keys/{erin.key_id}/revoke").status_code == 200
    assert send(client, erin).status_code == 401


def test_a_neighbour_notices_nothing(old: Cell, new: Cell, erin: Tenant) -> None:
    neighbours = [make_tenant(each.context) for each in (old, new)]
    for cell, neighbour in zip((old, new), neighbours, strict=True):
        assert send(_client(cell), neighbour, event_for(neighbour, event_id="n")).status_code == 201
    before = [_shown(cell, neighbour) for cell, neighbour in zip((old, new), neighbours, strict=True)]

    _move(old, new, erin).run()

    assert [_shown(cell, neighbour) for cell, neighbour in zip((old, new), neighbours, strict=True)] == before


def test_it_can_move_back(old: Cell, new: Cell, erin: Tenant) -> None:
    before = _shown(old, erin)
    _move(old, new, erin).run()
    assert send(_client(new), erin, event_for(erin, event_id="there")).status_code == 201
    _move(new, old, erin).run()

    after = _shown(old, erin)
    assert [event["event_id"] for event in after["feed"]] == [event["event_id"] for event in before["feed"]] + ["there"]
    assert send(_client(old), erin).status_code == 201
    assert send(_client(new), erin).headers["Lariba-Cell"] == "eu1"


def test_the_map_of_the_proxies_follows_it(old: Cell, new: Cell, erin: Tenant) -> None:
    credentials = [f"lrb_{kind}_{name[4:]}" for kind, name in (("sk", erin.key_id), ("mt", erin.token_id))]

    def sent_to() -> list[str | None]:
        exceptions = read_exceptions([old.settings, new.settings])
        return [exceptions.get(each) for each in credentials]

    _move(old, new, erin).run()
    assert sent_to() == ["us1", "us1"]
    _move(new, old, erin).run()
    assert sent_to() == [None, None]


def test_a_move_that_is_over_can_be_run_again(old: Cell, new: Cell, erin: Tenant) -> None:
    _move(old, new, erin).run()

    assert _move(old, new, erin).run().rows == 0
    with pytest.raises(MoveError, match="it lives in us1 already"):
        _move(old, new, erin).take_back()


def test_a_consumer_that_was_ahead_of_all_events_of_its_workspace_misses_none(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    """A neighbour of the old cell has taken many positions, and the consumer's place is behind them."""
    with psycopg.connect(old.settings.admin_database_url) as owner:
        owner.execute("SELECT setval('event_positions', last_value + 50000000) FROM event_positions")
    read = {"project_id": erin.project_id, "limit": 100}
    page = _api(old, erin).get("/v1/events/feed", cursor="now", **read).json or {}
    _move(old, new, erin).run()

    assert send(_client(new), erin, event_for(erin, event_id="after")).status_code == 201
    page = _api(new, erin).get("/v1/events/feed", cursor=page["next_cursor"], **read).json or {}
    assert [event["event_id"] for event in page["data"]] == ["after"]


def test_a_key_that_was_prolonged_since_is_sent_on_by_the_old_cell(old: Cell, new: Cell, erin: Tenant) -> None:
    _move(old, new, erin).run()
    for table, row in (("source_keys", erin.key_id), ("management_tokens", erin.token_id)):
        execute(old.context, f"UPDATE {table} SET expires_at = now() WHERE public_id = :id", id=row)

    assert send(_client(old), erin).status_code == 421
    assert _api(old, erin).get("/v1/projects").status_code == 421


def test_an_idempotency_key_that_is_used_again_after_its_life_while_it_moves_is_copied(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    with patch.object(Move, "_cut_over", side_effect=MoveError("cut off")), pytest.raises(MoveError, match="cut off"):
        _move(old, new, erin).run()
    for each in (old, new):
        over = "UPDATE idempotency_records SET expires_at = now() WHERE idempotency_key = 'k7' AND workspace_id = :id"
        execute(each.context, over, id=erin.workspace_row)
    again = event_for(erin, event_id="again")
    assert send(_client(old), erin, again, idempotency_key="k7").status_code == 201

    _move(old, new, erin).run()
    answer = send(_client(new), erin, again, idempotency_key="k7")
    assert (answer.status_code, answer.headers["Idempotent-Replayed"]) == (201, "true")


def test_the_index_of_search_goes_on_in_the_new_cell_from_what_was_copied_of_it(
    old: Cell, new: Cell, erin: Tenant
) -> None:
    counted = "SELECT 1 FROM event_segments WHERE project_id = :id"

    def build(cell: Cell) -> int:
        with psycopg.connect(cell.settings.admin_database_url, autocommit=True) as owner:
            while owner.execute("SELECT build_event_segment(%s, 5)", [erin.project_row]).fetchone() != (0,):
                pass
        return len(rows(cell.context, counted, id=erin.project_row))

    built = build(old)
    _move(old, new, erin).run()
    assert built == len(rows(new.context, counted, id=erin.project_row)) > 1

    for number in range(10):
        assert send(_client(new), erin, event_for(erin, event_id=f"n{number}")).status_code == 201
    assert build(new) > built
    found = _api(new, erin).get("/v1/events", limit=100, project_id=erin.project_id, q="payload.amount>1").json or {}
    assert len(found["data"]) == 21 + 10


def test_followers_find_its_events_of_a_day_that_the_new_cell_has_closed(old: Cell, new: Cell, erin: Tenant) -> None:
    day = datetime.now(UTC).date() - timedelta(days=3)
    for each in (old, new):
        with psycopg.connect(each.settings.admin_database_url) as owner:
            owner.execute("SELECT make_event_partitions(%s, 1)", [day])
            if each is old:
                owner.execute(_EVENT_OF_DAY, {"day": day, "project": erin.project_row})
            else:
                owner.execute("INSERT INTO event_days VALUES (%s, 1, 1)", [day])
    page = _api(old, erin).get("/v1/events/feed", limit=5, cursor="start", project_id=erin.project_id).json or {}
    _move(old, new, erin).run()

    read = {"limit": 100, "cursor": page["next_cursor"], "project_id": erin.project_id}
    page = _api(new, erin).get("/v1/events/feed", **read).json or {}
    assert "of that day" in {event["event_id"] for event in page["data"]}
