"""What each role may do, over every operation that the product has."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.context import Context
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from app.models import Base
from tests.support.every_route import UNKNOWN_IDS, Route, every_route
from tests.support.operating import ApiClient, api_with, at_once
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, send


@pytest.fixture(name="routes")
def _routes(app: Flask) -> list[Route]:
    return every_route(app)


@pytest.fixture(name="apis")
def _apis(app: Flask, context: Context, alice: Tenant) -> dict[Role, ApiClient]:
    return {role: api_with(app, context, alice, NewToken(role=role)) for role in Role}


def _ids_of(tenant: Tenant) -> dict[str, str]:
    return UNKNOWN_IDS | {
        "project_id": tenant.project_id,
        "environment_id": tenant.environment_id,
        "source_id": tenant.source_id,
        "key_id": tenant.key_id,
        "token_id": tenant.token_id,
    }


def test_each_role_may_do_what_those_before_it_may() -> None:
    order = list(Role)
    assert order == [Role.AUDITOR, Role.DEVELOPER, Role.ADMIN, Role.OWNER]
    for n, role in enumerate(order):
        assert [role.includes(other) for other in order] == [other in order[: n + 1] for other in order]


def test_every_operation_is_closed_below_its_role_and_open_from_there_on(
    routes: list[Route], apis: dict[Role, ApiClient]
) -> None:
    """Asked for an unknown object, so that nothing changes and each role meets the same."""
    for route in routes:
        if route.operation.is_change and not route.names and route.operation.role is not Role.AUDITOR:
            continue  # would make something: the test below tries them
        for role, api in apis.items():
            response = route.ask(api)
            is_refused = response.status_code == 403
            assert is_refused is not role.includes(route.operation.role), (route, role)
            if is_refused:
                assert error_of(response)["code"] == "insufficient_scope"
                assert route.operation.role in error_of(response)["message"]


@pytest.mark.parametrize("role", list(Role))
def test_so_are_those_that_make_something(
    routes: list[Route], apis: dict[Role, ApiClient], role: Role, alice: Tenant
) -> None:
    making = [route for route in routes if route.operation.is_change and not route.names]
    assert len(making) >= 3
    for route in making:
        expected = (200, 201) if role.includes(route.operation.role) else (403,)
        assert route.ask(apis[role], _ids_of(alice)).status_code in expected, route


def test_an_auditor_reads_everything_and_changes_nothing(
    routes: list[Route], apis: dict[Role, ApiClient], context: Context, alice: Tenant
) -> None:
    def state() -> dict[str, Any]:
        with context.database.transaction(alice.workspace_row) as session:
            return {
                # That a token was used is written down on it.
                table: session.connection()
                .exec_driver_sql(f"SELECT (to_jsonb(t) - 'last_used_at')::text FROM {table} t ORDER BY 1")
                .all()
                for table in set(Base.metadata.tables) - {"event_days"}  # the owner's alone
            }

    apis[Role.AUDITOR].get("/v1/workspace")
    before = state()

    for route in routes:
        key = {"Idempotency-Key": "auditor", "If-Match": "*"}
        response = route.ask(apis[Role.AUDITOR], _ids_of(alice), headers=key)
        # A query that names no project is incomplete.
        expected = (403,) if route.operation.is_change else (200, 404, 422)
        assert response.status_code in expected, route

    assert state() == before


def test_the_role_is_read_at_every_request(app: Flask, context: Context, api: ApiClient, alice: Tenant) -> None:
    assert api.post("/v1/projects", {"name": "a"}).status_code == 201

    with context.database.transaction(alice.workspace_row) as session:
        session.connection().exec_driver_sql("UPDATE management_tokens SET role = 'auditor'")

    assert api.post("/v1/projects", {"name": "b"}).status_code == 403
    assert api.get("/v1/projects").status_code == 200


def test_the_scope_is_judged_before_the_body_and_the_object(apis: dict[Role, ApiClient]) -> None:
    auditor = apis[Role.AUDITOR]

    assert auditor.post("/v1/projects", {"nonsense": 1}).status_code == 403
    assert auditor.call("POST", "/v1/projects", data=b"{", content_type="text/plain").status_code == 403
    assert auditor.patch("/v1/projects/prj_x", {"name": "x"}, headers={}).status_code == 403
    assert auditor.post("/v1/projects", {"name": "x"}, headers={"Idempotency-Key": "a b"}).status_code == 403


class TestSomeProjects:
    """A token that is limited to one project of two."""

    @pytest.fixture(name="limited")
    def _limited(self, app: Flask, context: Context, alice: Tenant, api: ApiClient) -> ApiClient:
        api.made("/v1/projects", {"name": "other"})
        return api_with(app, context, alice, NewToken(role=Role.OWNER, project_ids=(alice.project_id,)))

    def test_may_do_all_of_its_role_within_it(self, limited: ApiClient, alice: Tenant) -> None:
        environment = limited.made(f"/v1/projects/{alice.project_id}/environments", {"name": "qa"})["id"]
        source = limited.made(f"/v1/environments/{environment}/sources", {"name": "x", "type": "erp"})["id"]
        limited.made(f"/v1/sources/{source}/keys", {})
        assert limited.patch(f"/v1/projects/{alice.project_id}", {"name": "mine"}).status_code == 200
        assert limited.delete(f"/v1/projects/{alice.project_id}").status_code == 204

    def test_may_not_touch_what_belongs_to_all(self, routes: list[Route], limited: ApiClient, alice: Tenant) -> None:
        whole = [route for route in routes if route.operation.is_for_whole_workspace]
        assert {"POST /v1/projects", "PATCH /v1/workspace"} <= {str(route) for route in whole}
        for route in whole:
            assert error_of(route.ask(limited, _ids_of(alice)))["code"] == "insufficient_scope", route

    def test_sees_its_project_alone_in_every_list(self, api: ApiClient, limited: ApiClient, alice: Tenant) -> None:
        assert [each["id"] for each in limited.all_of("/v1/projects")] == [alice.project_id]
        assert len(api.all_of("/v1/projects")) == 2

    def test_sees_nothing_once_its_project_is_archived_and_may_do_nothing(
        self, api: ApiClient, limited: ApiClient, alice: Tenant
    ) -> None:
        api.delete(f"/v1/projects/{alice.project_id}")

        assert limited.all_of("/v1/projects") == limited.all_of("/v1/sources") == []
        assert limited.get(f"/v1/projects/{alice.project_id}").status_code == 404
        body = {"role": "auditor", "project_ids": [alice.project_id]}
        assert limited.post("/v1/tokens", body).status_code == 422


class TestAtOnce:
    def test_of_twenty_changes_of_one_state_one_wins_and_the_others_are_refused(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        for path in (f"/v1/sources/{alice.source_id}", f"/v1/keys/{alice.key_id}", "/v1/workspace"):
            seen = api.get(path).headers["ETag"]
            field = "label" if "keys" in path else "name"

            def change(n: int, path: str = path, field: str = field, seen: str = seen) -> int:
                return api.patch(path, {field: f"n{n}"}, headers={"If-Match": seen}).status_code

            calls: list[Callable[[], int]] = [lambda n=n, change=change: change(n) for n in range(20)]  # type: ignore[misc]
            assert sorted(at_once(calls)) == [200] + [412] * 19, path

    def test_suspension_stops_events_at_once_and_leaves_the_management_api(
        self, app: Flask, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        client = app.test_client()
        assert send(client, alice).status_code == 201
        stop = threading.Event()
        stored_after: list[int] = []

        def suspend() -> None:
            runner = app.test_cli_runner()
            assert runner.invoke(args=["workspace", "suspend", alice.workspace_id]).exit_code == 0
            stop.set()

        def keep_sending() -> None:
            own = app.test_client()
            while True:
                was_suspended = stop.is_set()
                status = send(own, alice).status_code
                if was_suspended:
                    stored_after.append(status)
                    return

        at_once([suspend, *[keep_sending] * 4])

        assert stored_after == [403] * 4
        assert (api.get("/v1/workspace").json or {})["status"] == "suspended"
        assert api.patch("/v1/workspace", {"name": "still ours"}).status_code == 200
        assert error_of(send(client, alice))["code"] == "workspace_suspended"
        assert len(rows(context, "SELECT 1 FROM workspaces WHERE id = :id", id=alice.workspace_row)) == 1
