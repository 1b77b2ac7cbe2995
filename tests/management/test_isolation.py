"""Whatever way an id goes in, a stranger's is answered byte for byte like one that does not exist.

All of it also as the tables' owner, whom row security does not bind: it would hide a query that forgot its workspace.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from flask import Flask
from sqlalchemy import text

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.factory import create_app
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.databases import close
from tests.support.every_route import UNKNOWN_IDS, Route, all_it_says, every_route, with_q
from tests.support.operating import UNKNOWN_ID, ApiClient, api_with
from tests.support.people import Tenant
from tests.support.replaying import replay_of
from tests.support.sending import event_for, pointers_of, send


@pytest.fixture(scope="module", name="app", params=["with row security", "without row security"])
def _app(request: pytest.FixtureRequest, settings: Settings, credentials: Credentials) -> Iterator[Flask]:
    url = settings.database_url if request.param == "with row security" else settings.admin_database_url
    app = create_app(replace(settings, database_url=url, database_pool_size=4), credentials=credentials)
    yield app
    close(app.extensions[EXTENSION].database)
    close(app.extensions[EXTENSION].reading)


@pytest.fixture(scope="module", name="context")
def _context(app: Flask) -> Context:
    context: Context = app.extensions[EXTENSION]
    return context


@pytest.fixture(name="routes")
def _routes(app: Flask) -> list[Route]:
    return every_route(app)


def _ids_of(api: ApiClient, tenant: Tenant) -> dict[str, str]:
    api.patch(f"/v1/projects/{tenant.project_id}", {"description": "an entry in the audit log"})
    entry = api.all_of("/v1/audit", object_id=tenant.project_id)[0]
    return {
        "project_id": tenant.project_id,
        "environment_id": tenant.environment_id,
        "source_id": tenant.source_id,
        "key_id": tenant.key_id,
        "token_id": tenant.token_id,
        "entry_id": entry["id"],
        "event_id": _event_of(api, tenant),
        "name": _consumer_of(api, tenant),
        "export_id": api.made("/v1/exports", {"project_id": tenant.project_id})["id"],
        "replay_id": replay_of(api, tenant),
    }


def _consumer_of(api: ApiClient, tenant: Tenant) -> str:
    """A name that nobody else's consumer has."""
    name = f"of-{tenant.project_id}"
    made = api.call("PUT", f"/v1/consumers/{name}", {"project_id": tenant.project_id})
    assert made.status_code in (200, 201), made.text
    return name


def _event_of(api: ApiClient, tenant: Tenant) -> str:
    """The id of an event of the tenant's source, which has it as its event_id as well."""
    assert send(api.client, tenant, event_for(tenant, event_id="e")).status_code in (200, 201)
    found = api.get(f"/v1/sources/{tenant.source_id}/events/e").json
    assert found is not None
    assert send(api.client, tenant, event_for(tenant, event_id=found["id"])).status_code in (200, 201)
    return str(found["id"])


@pytest.fixture(name="theirs")
def _theirs(stranger: ApiClient, charlie: Tenant) -> dict[str, str]:
    return _ids_of(stranger, charlie)


def _are_unknown(routes: list[Route], api: ApiClient, ids: dict[str, str]) -> None:
    for route in routes:
        if route.names:
            strange = all_it_says(route.ask(api, ids))
            assert strange[0] == 404, route
            assert strange == all_it_says(route.ask(api)), route


def test_a_strangers_id_in_any_path_is_unknown(routes: list[Route], api: ApiClient, theirs: dict[str, str]) -> None:
    _are_unknown(routes, api, theirs)


def test_so_is_one_of_a_project_that_a_token_does_not_reach(
    app: Flask, context: Context, routes: list[Route], api: ApiClient, alice: Tenant
) -> None:
    other = api.made("/v1/projects", {"name": "other"})["id"]
    limited = api_with(app, context, alice, NewToken(role=Role.OWNER, project_ids=(other,)))

    _are_unknown(routes, limited, _ids_of(api, alice))


def test_so_is_one_of_an_archived_project_but_for_what_is_history(
    app: Flask, context: Context, routes: list[Route], api: ApiClient, alice: Tenant
) -> None:
    limited = api_with(app, context, alice, NewToken(role=Role.OWNER, project_ids=(alice.project_id,)))
    ids = _ids_of(api, alice)
    api.delete(f"/v1/projects/{alice.project_id}")
    below = [route for route in routes if route.names & {"project_id", "environment_id", "source_id"}]

    history = ("usage", "restore", "events/<event_id>")
    _are_unknown([route for route in below if not route.operation.rule.endswith(history)], limited, ids)
    assert limited.get(f"/v1/audit/{ids['entry_id']}").status_code == 200


def test_a_strangers_id_in_any_filter_shows_what_an_unknown_one_shows(
    routes: list[Route], api: ApiClient, alice: Tenant, theirs: dict[str, str]
) -> None:
    theirs = theirs | {"object_id": theirs["source_id"], "actor": theirs["token_id"]}
    own = _ids_of(api, alice)
    asked = 0
    for route in routes:
        for name in set(route.queries) & (set(UNKNOWN_IDS) | {"object_id", "actor"}):
            unknown_id = UNKNOWN_IDS.get(name, f"x_{UNKNOWN_ID}")
            status, body, headers = all_it_says(route.ask(api, own, query_string={name: theirs[name]}))
            # A link repeats the caller's own query.
            headers = {each: value.replace(theirs[name], unknown_id) for each, value in headers.items()}
            unknown = route.ask(api, own, query_string={name: unknown_id})
            assert (status, body, headers) == all_it_says(unknown), (route, name)
            asked += 1
    assert asked >= 6


def test_a_strangers_project_in_any_body_is_like_an_unknown_one(
    routes: list[Route], api: ApiClient, alice: Tenant, theirs: dict[str, str]
) -> None:
    """As of a search, a consumer, an export or a replay."""
    own = _ids_of(api, alice) | {"name": "new"}
    asked = 0
    for route in routes:
        if "project_id" in json.dumps(route.body) and "project_id" not in route.names:
            strange = all_it_says(route.ask(api, own | {"project_id": theirs["project_id"]}))
            assert strange[0] in (404, 422), route
            assert strange == all_it_says(route.ask(api, own | {"project_id": UNKNOWN_IDS["project_id"]})), route
            asked += 1
    assert asked >= 4


@pytest.mark.parametrize(("field", "name"), [("source", "source_id"), ("key", "key_id"), ("env", "environment_id")])
def test_a_name_of_another_project_or_workspace_in_a_query_is_like_an_unknown_one(
    routes: list[Route], api: ApiClient, alice: Tenant, theirs: dict[str, str], field: str, name: str
) -> None:
    own, unknown = _ids_of(api, alice) | {"name": "new"}, UNKNOWN_IDS[name]
    beside = _ids_of_a_project_beside(api)

    def says(route: Route, q: str) -> tuple[int, bytes]:
        if "q" in route.queries:
            return all_it_says(route.ask(api, own, query_string={"project_id": own["project_id"], "q": q}))[:2]
        return all_it_says(replace(route, body=with_q(route.body, q)).ask(api, own))[:2]

    asked = 0
    for route in routes:
        if "q" in route.queries or '"q": ' in json.dumps(route.body):
            status, body = says(route, f"{field}:{unknown}")
            assert status == 422, route
            for foreign in (theirs[name], beside[name]):
                assert says(route, f"{field}:{foreign}") == (status, body.replace(unknown.encode(), foreign.encode()))
            asked += 1
    assert asked >= 8


def _ids_of_a_project_beside(api: ApiClient) -> dict[str, str]:
    """Of another project of the same workspace."""
    project = api.made("/v1/projects", {"name": "beside"})["id"]
    environment = api.made(f"/v1/projects/{project}/environments", {"name": "elsewhere"})["id"]
    source = api.made(f"/v1/environments/{environment}/sources", {"name": "beside", "type": "backend"})["id"]
    key = api.made(f"/v1/sources/{source}/keys", {})["id"]
    return {"environment_id": environment, "source_id": source, "key_id": key}


def test_a_strangers_project_in_the_body_of_a_token_is_refused_like_an_unknown_one(
    api: ApiClient, alice: Tenant, theirs: dict[str, str]
) -> None:
    def refused(project_id: str) -> tuple[int, bytes, dict[str, str]]:
        body = {"role": "auditor", "project_ids": [alice.project_id, project_id]}
        response = api.post("/v1/tokens", body, headers={"X-Request-ID": "the-same-for-both"})
        assert pointers_of(response) == {"/project_ids/1"}
        return all_it_says(response)

    assert refused(theirs["project_id"]) == refused(UNKNOWN_IDS["project_id"])


def test_a_strangers_cursor_is_as_good_as_a_forged_one(
    routes: list[Route], api: ApiClient, stranger: ApiClient, alice: Tenant, charlie: Tenant, theirs: dict[str, str]
) -> None:
    for n in range(2):
        stranger.made("/v1/projects", {"name": f"p{n}"})
        stranger.made(f"/v1/environments/{charlie.environment_id}/sources", {"name": f"s{n}", "type": "erp"})
        stranger.made("/v1/tokens", {"role": "auditor"})
    own = _ids_of(api, alice)
    seen = 0
    for route in routes:
        if "cursor" in route.queries:
            cursor = (route.ask(stranger, theirs, query_string={"limit": 1}).json or {}).get("next_cursor")
            forged = all_it_says(route.ask(api, own, query_string={"cursor": "forged"}))
            assert forged[0] == 422, route
            if cursor:
                assert all_it_says(route.ask(api, own, query_string={"cursor": cursor})) == forged, route
                seen += 1
    assert seen >= 4


def test_a_cursor_of_a_token_with_more_reach_shows_no_more(
    app: Flask, context: Context, api: ApiClient, alice: Tenant, tenant: Callable[[], Tenant]
) -> None:
    limited = api_with(app, context, alice, NewToken(role=Role.OWNER, project_ids=(alice.project_id,)))
    for n in range(3):
        api.made("/v1/projects", {"name": f"p{n}"})
        api.made("/v1/tokens", {"role": "auditor", "label": f"t{n}"})

    for path in ("/v1/projects", "/v1/tokens", "/v1/sources", "/v1/audit"):
        mine = {each["id"] for each in limited.all_of(path)}
        cursor = (api.get(path, limit=1).json or {})["next_cursor"]
        page = limited.get(path, **({"cursor": cursor} if cursor else {})).json or {}
        assert {each["id"] for each in page["data"]} <= mine, path


def test_nothing_of_a_strangers_changes_whatever_is_tried(
    routes: list[Route], api: ApiClient, context: Context, charlie: Tenant, theirs: dict[str, str]
) -> None:
    def state() -> list[object]:
        with context.database.transaction(charlie.workspace_row) as session:
            tables = ["projects", "environments", "sources", "source_keys", "management_tokens", "audit_entries"]
            tables += ["management_requests", "consumers", "exports"]
            theirs = {"workspaces": "id"} | dict.fromkeys(tables, "workspace_id")
            return [
                session.execute(
                    text(f"SELECT t::text FROM {table} t WHERE {column} = :row ORDER BY 1"),
                    {"row": charlie.workspace_row},
                ).all()
                for table, column in theirs.items()
            ]

    before = state()

    for route in routes:
        route.ask(api, theirs)

    assert state() == before


def test_a_strangers_objects_are_in_no_list(api: ApiClient, alice: Tenant, theirs: dict[str, str]) -> None:
    paths = [
        "/v1/projects",
        "/v1/sources",
        "/v1/keys",
        "/v1/tokens",
        f"/v1/projects/{alice.project_id}/environments",
        f"/v1/environments/{alice.environment_id}/sources",
        f"/v1/sources/{alice.source_id}/keys",
    ]

    shown = {each["id"] for path in paths for each in api.all_of(path)}

    assert len(shown) == 5
    assert not shown & set(theirs.values())
