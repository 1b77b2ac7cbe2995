"""One process that serves several cells: each request goes to the cell of its key or token."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.cells.serving import ServedCells
from app.config import Settings
from app.database.migrate import migrate
from tests.support.cells import Cell, cells
from tests.support.databases import fresh_database
from tests.support.live import Answer, LiveServer, gunicorn_server, live_server
from tests.support.people import Tenant, make_tenant, rows
from tests.support.sending import PATH, event_for


@pytest.fixture(name="pair", scope="module")
def _pair(server_url: str, migrated: Settings) -> Iterator[list[Cell]]:
    with cells(server_url, migrated, "eu1", "us1") as pair:
        yield pair


@pytest.fixture(name="both", scope="module", params=["granian", pytest.param("gunicorn", marks=pytest.mark.slow)])
def _both(
    request: pytest.FixtureRequest, pair: list[Cell], checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server of both cells."""
    eu1, us1 = (each.settings for each in pair)
    eu1 = replace(eu1, metrics_dir=str(tmp_path_factory.mktemp("metrics")))
    server = live_server if request.param == "granian" else gunicorn_server
    with server(eu1, checkout, others=[us1]) as running:
        yield running


def _send(server: LiveServer, tenant: Tenant, *, batch: bool = False, key: str | None = None) -> Answer:
    event = event_for(tenant)
    headers = {"X-API-Key": key or tenant.key, "Content-Type": "application/json"}
    path, body = (f"{PATH}/batch", {"events": [event]}) if batch else (PATH, event)
    return server.request("POST", path, json.dumps(body).encode(), headers)


def test_each_key_stores_in_its_own_cell(both: LiveServer, pair: list[Cell]) -> None:
    for cell in pair:
        tenant = make_tenant(cell.context)
        # Not the first time alone: what follows takes the fast path.
        assert [_send(both, tenant).status for _ in range(3)] == [201] * 3
        assert _send(both, tenant, batch=True).status == 200
        stored = [
            rows(each.context, "SELECT 1 FROM events WHERE workspace_id = :id", id=tenant.workspace_row)
            for each in pair
        ]
        assert [len(each) for each in stored] == [4 if each is cell else 0 for each in pair]


def test_each_token_manages_its_own_cell(both: LiveServer, pair: list[Cell]) -> None:
    for cell in pair:
        tenant = make_tenant(cell.context)
        answer = both.request("GET", "/v1/projects", headers=tenant.bearer)
        assert [project["id"] for project in json.loads(answer.body)["data"]] == [tenant.project_id]
        workspace = json.loads(both.request("GET", "/v1/workspace", headers=tenant.bearer).body)
        assert (workspace["id"], workspace["cell"]) == (tenant.workspace_id, cell.name)


def test_a_browser_key_in_the_query_finds_its_cell(both: LiveServer, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[1].context)

    answer = both.request("POST", f"{PATH}?key={tenant.key}", b"{}", {"Content-Type": "application/json"})

    # It is no browser key: only its own cell knows that.
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "origin_not_allowed")


def test_what_is_of_neither_is_refused_as_it_is(both: LiveServer, pair: list[Cell]) -> None:
    tenant = make_tenant(pair[0].context)

    assert _send(both, tenant, key=tenant.key.replace("_eu1", "_xy9")).status == 401
    assert both.request("GET", "/v1/projects").status == 401


def test_health_is_asked_for_each_cell(both: LiveServer) -> None:
    answers = [both.request("GET", "/readyz", headers=headers) for headers in ({}, {"Lariba-Cell": "us1"})]

    assert [answer.status for answer in answers] == [200, 200]


def test_one_page_of_metrics_has_the_state_of_each_and_names_no_family_twice(both: LiveServer) -> None:
    both.request("GET", "/v1/projects")
    page = both.request("GET", "/metrics").body.decode()

    assert 'lariba_database_up{cell="eu1"} 1.0' in page
    assert 'lariba_database_up{cell="us1"} 1.0' in page
    assert re.search(r'lariba_requests_total\{cell="eu1,us1",method="GET"', page)
    families = re.findall(r"^# TYPE (\S+)", page, re.MULTILINE)
    assert len(families) == len(set(families))


def test_a_key_goes_before_a_token_and_any_credential_before_a_name() -> None:
    cells_of = ServedCells({"eu1": 1, "us1": 2})

    def served(query: str = "", **headers: str) -> int:
        return cells_of.of_request(lambda name: headers.get(name.replace("-", "_")), query)

    key, token = "lrb_sk_us1aaaaaaaaaaaaa_x", "lrb_mt_us1aaaaaaaaaaaaa_x"
    assert served(x_api_key=key) == served(authorization=f"Bearer {token}") == served(f"a=b&key={key}") == 2
    assert served(x_api_key="lrb_sk_eu1aaaaaaaaaaaaa_x", authorization=f"Bearer {token}") == 1
    assert served(x_api_key="nonsense", lariba_cell="us1") == served("key=nonsense") == served() == 1
    assert served(lariba_cell="us1") == 2


def test_one_that_is_away_hurts_no_other(server_url: str, checkout: Path, pair: list[Cell]) -> None:
    with fresh_database(server_url) as fresh:
        us2 = replace(fresh, cells=("us2",), database_pool_size=4)
        migrate(us2)
    # Its database is gone.
    with live_server(pair[0].settings, checkout, others=[us2]) as server:
        tenant = make_tenant(pair[0].context)
        assert [_send(server, tenant).status for _ in range(3)] == [201] * 3
        assert _send(server, tenant, key=tenant.key.replace("_eu1", "_us2")).status == 401
        assert server.request("GET", "/readyz", headers={"Lariba-Cell": "us2"}).status == 503
        assert server.request("GET", "/readyz").status == 200
