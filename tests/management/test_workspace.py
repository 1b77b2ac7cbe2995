"""/v1/workspace: a token's own, to read and to change."""

from typing import Any

import pytest

from app.context import Context
from tests.support.operating import MOMENT, ApiClient
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, pointers_of

PATH = "/v1/workspace"


def test_it_is_the_tokens_own(api: ApiClient, stranger: ApiClient, alice: Tenant, charlie: Tenant) -> None:
    shown = api.get(PATH)
    facts = shown.json or {}

    assert facts["id"] == alice.workspace_id
    assert (stranger.get(PATH).json or {})["id"] == charlie.workspace_id
    assert set(facts) == {"id", "name", "status", "created_at", "updated_at"} | {
        "retention_days",
        "key_events_per_second",
        "cell",
        "events_per_second",
    }
    assert MOMENT.fullmatch(facts["created_at"])
    assert shown.headers["ETag"]


def test_what_is_absent_stays_and_null_is_the_installations_default(api: ApiClient) -> None:
    first = api.patch(PATH, {"name": "Acme", "retention_days": 90, "key_events_per_second": 10}).json or {}
    second = api.patch(PATH, {"retention_days": None}).json or {}

    assert (first["name"], first["retention_days"], first["key_events_per_second"]) == ("Acme", 90, 10)
    assert (second["name"], second["retention_days"], second["key_events_per_second"]) == ("Acme", None, 10)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": None}, "/name"),
        ({"retention_days": 0}, "/retention_days"),
        ({"retention_days": 36_501}, "/retention_days"),
        ({"retention_days": 1.5}, "/retention_days"),
        ({"retention_days": True}, "/retention_days"),
        ({"retention_days": "90"}, "/retention_days"),
        ({"key_events_per_second": 0}, "/key_events_per_second"),
        ({"key_events_per_second": 10**30}, "/key_events_per_second"),
        # The operator of the installation alone sets these.
        ({"events_per_second": 1}, "/events_per_second"),
        ({"status": "suspended"}, "/status"),
        ({"id": "ws_x"}, "/id"),
    ],
)
def test_what_is_wrong_or_not_its_operators_business_is_refused(
    api: ApiClient, body: dict[str, Any], pointer: str
) -> None:
    before = api.get(PATH).json

    assert pointers_of(api.patch(PATH, body)) == {pointer}
    assert api.get(PATH).json == before


def test_a_change_says_which_state_it_is_meant_for(api: ApiClient) -> None:
    seen = api.get(PATH).headers["ETag"]

    assert error_of(api.patch(PATH, {"name": "x"}, headers={"If-Match": None}))["code"] == "precondition_required"
    changed = api.patch(PATH, {"name": "x"}, headers={"If-Match": seen})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != seen
    assert error_of(api.patch(PATH, {"name": "y"}, headers={"If-Match": seen}))["code"] == "precondition_failed"


def test_a_change_is_written_down_with_what_was_before(api: ApiClient, context: Context, alice: Tenant) -> None:
    api.patch(PATH, {"retention_days": 90})
    api.patch(PATH, {"retention_days": 90})

    (entry,) = rows(context, "SELECT * FROM audit_entries WHERE workspace_id = :id", id=alice.workspace_row)
    assert (entry.action, entry.object_id) == ("workspace.update", alice.workspace_id)
    assert (entry.before, entry.after) == ({"retention_days": None}, {"retention_days": 90})


def test_it_can_be_neither_made_nor_removed_here(api: ApiClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert api.call(method, PATH).status_code == 405
