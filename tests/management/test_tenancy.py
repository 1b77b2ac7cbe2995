"""A stranger's thing does not exist: every operation answers its id as it answers one that nobody has."""

from typing import Any

import pytest
from flask import Flask
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from app.context import Context
from tests.management.operating import NOBODYS_ID, Desk
from tests.people import Tenant, rows

# A body that each operation would take; those that are not named take none.
_BODIES: dict[str, dict[str, Any]] = {
    "projects.create_project": {"name": "x"},
    "projects.update_project": {"name": "y"},
    "environments.create_environment": {"name": "x"},
    "environments.update_environment": {"name": "y"},
    "sources.create_source": {"name": "x", "type": "erp"},
    "sources.update_source": {"name": "y"},
    "keys.issue_key": {"label": "x"},
    "keys.update_key": {"label": "x"},
}
_KINDS = {"project_id": "prj", "environment_id": "env", "source_id": "src", "key_id": "key"}


def _operations(app: Flask) -> list[tuple[str, Rule]]:
    """Every operation of the control plane that names an object."""
    return [
        (method, rule)
        for rule in app.url_map.iter_rules()
        if getattr(app.view_functions[rule.endpoint], "guard", None) and rule.arguments
        for method in sorted((rule.methods or set()) - {"OPTIONS"})
    ]


def _ask(desk: Desk, method: str, rule: Rule, ids: dict[str, str]) -> TestResponse:
    path = rule.rule
    for name in rule.arguments:
        path = path.replace(f"<{name}>", ids[name])
    body = _BODIES.get(rule.endpoint) if method in ("POST", "PATCH") else None
    return desk.call(method, path, body, headers={"X-Request-ID": "the-same-for-both"})


def _what_it_says(response: TestResponse) -> tuple[int, bytes, dict[str, str]]:
    return response.status_code, response.data, dict(response.headers)


@pytest.fixture(name="theirs")
def _theirs(charlie: Tenant) -> dict[str, str]:
    return {
        "project_id": charlie.project_id,
        "environment_id": charlie.environment_id,
        "source_id": charlie.source_id,
        "key_id": charlie.key_id,
    }


def test_every_operation_answers_a_strangers_id_like_nobodys(app: Flask, desk: Desk, theirs: dict[str, str]) -> None:
    nobodys = {name: f"{kind}_{NOBODYS_ID}" for name, kind in _KINDS.items()}
    operations = _operations(app)
    assert len(operations) > 20

    for method, rule in operations:
        strange = _what_it_says(_ask(desk, method, rule, theirs))
        assert strange[0] == 404, (method, rule)
        assert strange == _what_it_says(_ask(desk, method, rule, nobodys)), (method, rule)


def test_every_operation_takes_the_ids_of_its_own_workspace(app: Flask, stranger: Desk, theirs: dict[str, str]) -> None:
    """Or the test above would prove nothing."""
    gentle = [each for each in _operations(app) if each[0] != "DELETE"]
    last = [each for each in _operations(app) if each[0] == "DELETE"]
    # The children go before their parents.
    last.sort(key=lambda each: ["source", "environment", "project"].index(each[1].endpoint.rpartition("_")[2]))

    for method, rule in gentle + last:
        assert _ask(stranger, method, rule, theirs).status_code in (200, 201, 204), (method, rule)


def test_nothing_of_a_strangers_was_changed_or_written_down(
    app: Flask, desk: Desk, house: Context, charlie: Tenant, theirs: dict[str, str]
) -> None:
    def state() -> list[Any]:
        tables = ("projects", "environments", "sources", "source_keys", "audit_entries")
        return [
            rows(house, f"SELECT t::text FROM {table} t WHERE workspace_id = :id", id=charlie.workspace_row)
            for table in tables
        ]

    before = state()

    for method, rule in _operations(app):
        _ask(desk, method, rule, theirs)

    assert state() == before


def test_a_strangers_objects_are_in_no_list(desk: Desk, alice: Tenant, theirs: dict[str, str]) -> None:
    paths = [
        "/v1/projects",
        "/v1/sources",
        f"/v1/projects/{alice.project_id}/environments",
        f"/v1/environments/{alice.environment_id}/sources",
        f"/v1/sources/{alice.source_id}/keys",
    ]

    shown = {each["id"] for path in paths for each in desk.all_of(path)}

    assert len(shown) == 4
    assert not shown & set(theirs.values())
