"""What the database would refuse, the API refuses first, or says what it means; nothing of it is a 500."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from werkzeug.test import TestResponse

from app.context import Context
from app.management.common.mutations import _TAKEN
from tests.support.operating import ApiClient, at_once
from tests.support.people import Tenant, rows

_CONTROL = "'workspaces', 'projects', 'environments', 'sources', 'source_keys', 'management_tokens'"
Attempt = Callable[[ApiClient, Tenant], TestResponse]


def _issue_key(**members: Any) -> Attempt:
    return lambda api, tenant: api.post(f"/v1/sources/{tenant.source_id}/keys", members)


def _issue_token(**members: Any) -> Attempt:
    return lambda api, tenant: api.post("/v1/tokens", members)


def _change_workspace(**members: Any) -> Attempt:
    return lambda api, tenant: api.patch("/v1/workspace", members)


def _create_source(**members: Any) -> Attempt:
    return lambda api, tenant: api.post(f"/v1/environments/{tenant.environment_id}/sources", members)


# How a caller would go about it; a check that is new wants a line here.
_CHECKS: dict[str, Attempt] = {
    "ck_workspaces_status": _change_workspace(status="closed"),
    "ck_workspaces_events_per_second": _change_workspace(events_per_second=0),
    "ck_workspaces_retention_days": _change_workspace(retention_days=0),
    "ck_workspaces_key_events_per_second": _change_workspace(key_events_per_second=0),
    "ck_sources_type": _create_source(name="x", type="toaster"),
    "ck_sources_timestamp_policy": _create_source(name="x", type="erp", timestamp_policy="guess"),
    "ck_sources_timestamp_ahead_seconds_max": _create_source(name="x", type="erp", timestamp_ahead_seconds_max=0),
    "ck_sources_timestamp_behind_seconds_max": _create_source(name="x", type="erp", timestamp_behind_seconds_max=0),
    "ck_management_tokens_role": _issue_token(role="king"),
    "ck_management_tokens_project_ids": _issue_token(role="auditor", project_ids=[]),
    "ck_source_keys_events_per_second": _issue_key(events_per_second=0),
    "ck_source_keys_browser": _issue_key(allowed_origins=["https://shop.example"]),
    "ck_source_keys_policies": _issue_key(allowed_event_types=[], allowed_networks=[]),
}


def _constraints(context: Context, kind: str) -> dict[str, str]:
    """The control tables' constraints of a kind (pg_constraint.contype) with their definitions."""
    found = rows(
        context,
        "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint"
        f" WHERE conrelid::regclass::text IN ({_CONTROL}) AND contype::text = :kind",
        kind=kind,
    )
    return {str(name): str(definition) for name, definition in map(tuple, found)}


def test_every_check_of_the_tables_is_known_here(context: Context) -> None:
    assert set(_constraints(context, "c")) == set(_CHECKS)


@pytest.mark.parametrize("check", sorted(_CHECKS))
def test_what_a_check_would_refuse_is_refused_before_with_its_place(api: ApiClient, alice: Tenant, check: str) -> None:
    refused = _CHECKS[check](api, alice)

    assert refused.status_code == 422
    assert refused.json is not None
    assert refused.json["error"]["details"]


def test_no_reference_can_be_broken_because_nothing_that_is_referred_to_is_deleted(context: Context) -> None:
    targets = {definition.split("REFERENCES ")[1].split("(")[0] for definition in _constraints(context, "f").values()}

    assert targets
    for table in targets:
        (may_delete,) = rows(context, f"SELECT has_table_privilege('{table}', 'DELETE')")[0]
        assert not may_delete, table


def test_every_name_that_can_be_taken_has_words(context: Context) -> None:
    unique = rows(
        context,
        f"SELECT indexname FROM pg_indexes WHERE tablename IN ({_CONTROL}) AND indexdef LIKE 'CREATE UNIQUE%name)%'",
    )

    assert {name for (name,) in unique} == set(_TAKEN)


@pytest.mark.parametrize("kind", ["projects", "environments", "sources"])
def test_of_many_that_are_renamed_to_one_name_at_once_one_gets_it(api: ApiClient, alice: Tenant, kind: str) -> None:
    collection, more = {
        "projects": ("/v1/projects", {}),
        "environments": (f"/v1/projects/{alice.project_id}/environments", {}),
        "sources": (f"/v1/environments/{alice.environment_id}/sources", {"type": "erp"}),
    }[kind]
    ids = [api.made(collection, {"name": f"n{n}", **more})["id"] for n in range(6)]

    responses = at_once([partial(api.patch, f"/v1/{kind}/{each}", {"name": "raced"}) for each in ids])

    assert sorted(response.status_code for response in responses) == [200, *[409] * 5]
    for response in responses:
        assert response.status_code == 200 or "raced" in response.text
