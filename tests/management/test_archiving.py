"""Archived things, and what comes back with them: everything but a key."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final
from unittest.mock import ANY

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, event, text

from app.context import Context
from app.database.engine import TenantScope
from app.maintenance.usage import fold_usage
from tests.support.operating import ApiClient
from tests.support.people import Tenant, execute, issue_key, rows, source_of
from tests.support.sending import error_of, send
from tests.support.waiting import wait_until

_WAIT_FOR_A_ROW: Final = """
    SELECT 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event IN ('transactionid', 'tuple')
"""


@pytest.fixture(name="path_of", params=["projects", "environments", "sources"])
def _path_of(request: pytest.FixtureRequest) -> Callable[[Tenant], str]:
    """The path of a tenant's object, one kind after the other."""
    kind = str(request.param)
    return lambda tenant: f"/v1/{kind}/{getattr(tenant, kind[:-1] + '_id')}"


def test_what_is_restored_is_there_again_with_all_below_it_and_no_key_lives(
    api: ApiClient, client: FlaskClient, alice: Tenant, path_of: Callable[[Tenant], str]
) -> None:
    path = path_of(alice)
    api.delete(path)
    assert error_of(send(client, alice))["code"] == "source_disabled"

    restored = api.post(f"{path}/restore")

    assert restored.status_code == 200
    assert restored.json == api.get(path).json
    assert api.get(f"/v1/sources/{alice.source_id}").status_code == 200
    assert api.get(f"/v1/keys/{alice.key_id}").json["revoked_at"] is not None  # type: ignore[index]
    assert error_of(send(client, alice))["code"] == "invalid_source_key"


def test_what_is_restored_ends_no_key_that_lies_elsewhere(
    api: ApiClient, stranger: ApiClient, alice: Tenant, charlie: Tenant, path_of: Callable[[Tenant], str]
) -> None:
    elsewhere = api.made("/v1/projects", {"name": "elsewhere"})["id"]
    environment = api.all_of(f"/v1/projects/{elsewhere}/environments")[0]["id"]
    new = {"name": "other", "type": "erp", "key": {}}
    key_id = api.made(f"/v1/environments/{environment}/sources", new)["key"]["id"]
    api.delete(path_of(alice))

    assert api.post(f"{path_of(alice)}/restore").status_code == 200

    assert api.get(f"/v1/keys/{key_id}").json["revoked_at"] is None  # type: ignore[index]
    assert stranger.get(f"/v1/keys/{charlie.key_id}").json["revoked_at"] is None  # type: ignore[index]


def test_restoring_what_is_in_use_changes_nothing(
    api: ApiClient, client: FlaskClient, alice: Tenant, path_of: Callable[[Tenant], str]
) -> None:
    before = api.get(path_of(alice)).json

    assert api.post(f"{path_of(alice)}/restore").json == before
    assert send(client, alice).status_code == 201


def test_only_its_own_workspace_restores(
    api: ApiClient, stranger: ApiClient, alice: Tenant, path_of: Callable[[Tenant], str]
) -> None:
    api.delete(path_of(alice))

    assert stranger.post(f"{path_of(alice)}/restore").status_code == 404
    assert api.get(path_of(alice)).status_code == 404


def test_nothing_is_restored_below_what_is_archived(api: ApiClient, alice: Tenant) -> None:
    api.delete(f"/v1/sources/{alice.source_id}")
    api.delete(f"/v1/environments/{alice.environment_id}")

    assert api.post(f"/v1/sources/{alice.source_id}/restore").status_code == 404
    api.post(f"/v1/environments/{alice.environment_id}/restore")
    assert api.get(f"/v1/sources/{alice.source_id}").status_code == 404
    assert api.post(f"/v1/sources/{alice.source_id}/restore").status_code == 200


def test_a_name_that_was_given_away_meanwhile_is_refused(api: ApiClient) -> None:
    old = api.made("/v1/projects", {"name": "Shop"})
    api.delete(f"/v1/projects/{old['id']}")
    api.made("/v1/projects", {"name": "Shop"})

    refused = api.post(f"/v1/projects/{old['id']}/restore")

    assert (refused.status_code, error_of(refused)["code"]) == (409, "conflict")


def test_the_archived_ones_have_a_list_of_their_own(api: ApiClient, alice: Tenant) -> None:
    lists = {
        "/v1/sources": f"/v1/sources/{alice.source_id}",
        f"/v1/projects/{alice.project_id}/environments": f"/v1/environments/{alice.environment_id}",
        "/v1/projects": f"/v1/projects/{alice.project_id}",
    }
    for path, archived in lists.items():
        assert api.all_of(path, archived="true") == []
        api.delete(archived)
        assert api.all_of(path) == api.all_of(path, archived="false") == []
        (shown,) = api.all_of(path, archived="true")
        assert shown["archived_at"] is not None
        assert api.post(f"{archived}/restore").json == shown | {"archived_at": None, "updated_at": ANY}
    refused = api.get("/v1/projects", archived="yes")
    assert error_of(refused)["details"] == [{"pointer": "/archived", "message": "Must be true or false."}]


def test_each_key_that_ended_has_an_entry_of_its_own(api: ApiClient, context: Context, alice: Tenant) -> None:
    keys = {api.made(f"/v1/sources/{alice.source_id}/keys", {})["id"] for _ in range(3)} | {alice.key_id}
    api.post(f"/v1/keys/{alice.key_id}/revoke")
    api.delete(f"/v1/projects/{alice.project_id}")

    api.post(f"/v1/projects/{alice.project_id}/restore")

    statement = "SELECT object_id FROM audit_entries WHERE action = 'source_key.revoke' AND workspace_id = :id"
    assert sorted(row.object_id for row in rows(context, statement, id=alice.workspace_row)) == sorted(keys)


def test_each_key_that_ended_has_a_state_that_it_never_had_whatever_the_clock_says(
    api: ApiClient, context: Context, alice: Tenant
) -> None:
    """A clock that was set back leaves states that lie ahead, and one statement gives all keys their next one."""
    further = [issue_key(context, source_of(context, alice))[0] for _ in range(2)]
    hours = dict(zip((alice.key_row, *further), (1, 3, 2), strict=True))
    for row, ahead in hours.items():
        statement = "UPDATE source_keys SET updated_at = now() + make_interval(hours => :ahead) WHERE id = :id"
        execute(context, statement, ahead=ahead, id=row)
    states = "SELECT id, updated_at FROM source_keys WHERE source_id = :id"
    before = {row.id: row.updated_at for row in rows(context, states, id=alice.source_row)}
    api.delete(f"/v1/sources/{alice.source_id}")

    api.post(f"/v1/sources/{alice.source_id}/restore")

    after = {row.id: row.updated_at for row in rows(context, states, id=alice.source_row)}
    assert all(after[row] > before[row] for row in hours)


def test_a_key_that_was_over_already_is_left_as_it_was(api: ApiClient, context: Context, alice: Tenant) -> None:
    execute(context, "UPDATE source_keys SET expires_at = now() WHERE id = :id", id=alice.key_row)
    before = api.get(f"/v1/keys/{alice.key_id}").json
    api.delete(f"/v1/sources/{alice.source_id}")

    api.post(f"/v1/sources/{alice.source_id}/restore")

    assert api.get(f"/v1/keys/{alice.key_id}").json == before


@pytest.fixture(name="by_place")
def _by_place(context: Context) -> Iterator[None]:
    """PostgreSQL finds rows in the order in which they lie on their pages, as it does where tables are large."""

    def plan(connection: Connection) -> None:
        # Before the transaction has its deadline: the connection still has that of its last one, which may be over.
        connection.connection.dbapi_connection.deadline = None  # type: ignore[union-attr]
        connection.exec_driver_sql("SET LOCAL enable_indexscan = off")

    event.listen(context.database.engine, "begin", plan)
    yield
    event.remove(context.database.engine, "begin", plan)


@pytest.mark.usefixtures("by_place")
def test_a_restoration_and_the_worker_that_notes_the_keys_use_never_wait_for_each_other_in_a_circle(
    api: ApiClient, context: Context, alice: Tenant
) -> None:
    """The worker takes the keys in the order in which they were issued."""
    used = [issue_key(context, source_of(context, alice))[0] for _ in range(3)]
    for end in ("now()", "NULL"):  # so that the last one lies before the others
        execute(context, f"UPDATE source_keys SET expires_at = {end} WHERE id = ANY (:ids)", ids=used[:2])
    api.delete(f"/v1/projects/{alice.project_id}")
    execute(
        context,
        "INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,"
        " payload_bytes, received_at)"
        " SELECT project_id, gen_random_uuid(), workspace_id, source_id, id, 'stored', 1, 10, now()"
        " FROM source_keys WHERE id = ANY (:used)",
        used=used,
    )

    with ThreadPoolExecutor(2) as pool, context.database.transaction(TenantScope.ALL) as holder:
        holder.execute(text("SELECT 1 FROM source_keys WHERE id = :id FOR NO KEY UPDATE"), {"id": used[1]})
        folding = pool.submit(fold_usage, context.database)
        wait_until(lambda: len(rows(context, _WAIT_FOR_A_ROW)) == 1)
        restoring = pool.submit(api.post, f"/v1/projects/{alice.project_id}/restore")
        wait_until(lambda: len(rows(context, _WAIT_FOR_A_ROW)) == 2)
        holder.rollback()

        assert folding.result(timeout=10).rows >= len(used)
        assert restoring.result(timeout=10).status_code == 200
