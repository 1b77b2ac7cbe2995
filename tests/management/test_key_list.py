"""GET /v1/keys: every key of the workspace, and filters that find the stale ones and those that end soon."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.maintenance.usage import fold_usage
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.operating import UNKNOWN_ID, Desk, desk_with
from tests.support.people import Tenant, execute
from tests.support.sending import pointers_of, send

_DAY_AGO = "now() - interval '1 day' * :days"
_END = "UPDATE source_keys SET expires_at = now() + interval '1 day' * :days WHERE public_id = :id"


def _ids(desk: Desk, **query: Any) -> list[str]:
    return [key["id"] for key in desk.all_of("/v1/keys", **query)]


def _issue(desk: Desk, source_id: str) -> str:
    key_id = desk.made(f"/v1/sources/{source_id}/keys", {})["id"]
    assert isinstance(key_id, str)
    return key_id


@pytest.fixture(name="elsewhere")
def _elsewhere(desk: Desk) -> tuple[str, str, str]:
    """Another project, its source and that source's key."""
    project = desk.made("/v1/projects", {"name": "other"})["id"]
    environment = desk.get(f"/v1/projects/{project}/environments").json["data"][0]["id"]  # type: ignore[index]
    source = desk.made(f"/v1/environments/{environment}/sources", {"name": "erp", "type": "erp"})["id"]
    return project, source, _issue(desk, source)


def test_it_holds_the_keys_of_all_sources_newest_first(
    desk: Desk, alice: Tenant, charlie: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    newest = _issue(desk, alice.source_id)

    assert _ids(desk) == [newest, elsewhere[2], alice.key_id]
    assert _ids(desk, limit=1) == [newest, elsewhere[2], alice.key_id]


def test_it_shows_what_reading_the_key_shows(desk: Desk, alice: Tenant) -> None:
    (listed,) = desk.all_of("/v1/keys")

    assert listed == desk.get(f"/v1/keys/{alice.key_id}").json


def test_projects_and_sources_can_be_picked(desk: Desk, alice: Tenant, elsewhere: tuple[str, str, str]) -> None:
    project, source, key = elsewhere

    assert _ids(desk, project_id=project) == _ids(desk, source_id=source) == [key]
    assert _ids(desk, project_id=alice.project_id, source_id=source) == []
    assert _ids(desk, source_id=UNKNOWN_ID) == []


def test_a_token_for_some_projects_lists_their_keys_only(
    app: Flask, context: Context, desk: Desk, alice: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    narrow = desk_with(app, context, alice, NewToken(role=Role.AUDITOR, label="narrow", project_ids=(elsewhere[0],)))

    assert _ids(narrow) == [elsewhere[2]]
    assert _ids(narrow, project_id=alice.project_id) == []
    for key_id in (elsewhere[2], alice.key_id):
        execute(context, _END, id=key_id, days=5)
    assert _ids(narrow, expires_within_days=10) == [elsewhere[2]]
    assert _ids(desk, expires_within_days=10) == [elsewhere[2], alice.key_id]


def test_a_key_that_was_rotated_needs_no_successor_and_is_not_among_those_that_end_soon(
    desk: Desk, context: Context, alice: Tenant
) -> None:
    ending = _issue(desk, alice.source_id)
    execute(context, _END, id=ending, days=5)
    successor = (desk.post(f"/v1/keys/{ending}/rotate", {}).json or {})["id"]

    assert _ids(desk, expires_within_days=10) == [successor]
    assert _ids(desk, expires_within_days=10, state="active") == [successor]
    assert _ids(desk, state="active") == [successor, ending, alice.key_id]


def test_keys_of_archived_sources_are_not_listed(desk: Desk, alice: Tenant, elsewhere: tuple[str, str, str]) -> None:
    desk.delete(f"/v1/sources/{elsewhere[1]}")

    assert _ids(desk) == [alice.key_id]


def test_active_expired_and_revoked_divide_the_keys(desk: Desk, context: Context, alice: Tenant) -> None:
    endless, later, expired, revoked, both = (_issue(desk, alice.source_id) for _ in range(5))
    past = "UPDATE source_keys SET expires_at = now() WHERE public_id IN (:one, :other)"
    execute(context, past, one=expired, other=both)
    execute(context, "UPDATE source_keys SET expires_at = '2099-01-01Z' WHERE public_id = :id", id=later)
    for key_id in (revoked, both):
        desk.post(f"/v1/keys/{key_id}/revoke")

    assert _ids(desk, state="active") == [later, endless, alice.key_id]
    assert _ids(desk, state="expired") == [expired]
    assert _ids(desk, state="revoked") == [both, revoked]
    for state in ("active", "expired", "revoked"):
        for key_id in _ids(desk, state=state):
            assert (desk.get(f"/v1/keys/{key_id}").json or {})["state"] == state


def test_what_changes_a_keys_state_shows_it(desk: Desk, context: Context, alice: Tenant) -> None:
    path = f"/v1/keys/{alice.key_id}"
    execute(context, _END, id=alice.key_id, days=0)

    answers = [desk.get(path), desk.patch(path, {"expires_at": "2099-01-01T00:00:00Z"}), desk.post(f"{path}/revoke")]

    assert [(each.json or {})["state"] for each in answers] == ["expired", "active", "revoked"]


def test_keys_that_never_brought_an_event_can_be_found(
    desk: Desk, client: FlaskClient, context: Context, alice: Tenant
) -> None:
    unused = _issue(desk, alice.source_id)
    send(client, alice)
    fold_usage(context.database)

    assert _ids(desk, never_used="true") == [unused]
    assert _ids(desk, never_used="false") == [alice.key_id]


def test_a_key_is_stale_since_its_last_use_or_since_it_was_issued(desk: Desk, context: Context, alice: Tenant) -> None:
    old_and_unused, old_and_used, new = (_issue(desk, alice.source_id) for _ in range(3))
    issued = f"UPDATE source_keys SET created_at = {_DAY_AGO} WHERE public_id IN (:one, :other)"
    execute(context, issued, one=old_and_unused, other=old_and_used, days=100)
    used = f"UPDATE source_keys SET last_used_at = {_DAY_AGO} WHERE public_id = :id"
    execute(context, used, id=old_and_used, days=30)

    assert _ids(desk, unused_for_days=30) == [old_and_used, old_and_unused]
    assert _ids(desk, unused_for_days=31) == _ids(desk, unused_for_days=100) == [old_and_unused]
    assert _ids(desk, unused_for_days=101) == []
    assert new in _ids(desk)


def test_keys_that_end_soon_can_be_found_in_time(
    desk: Desk, stranger: Desk, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    tomorrow, later, over, revoked = (_issue(desk, alice.source_id) for _ in range(4))
    days = {tomorrow: 1, later: 10, over: -1, revoked: 1, charlie.key_id: 1}
    for key_id, until in days.items():
        execute(context, _END, id=key_id, days=until)
    desk.post(f"/v1/keys/{revoked}/revoke")

    assert _ids(desk, expires_within_days=9) == [tomorrow]
    assert _ids(desk, expires_within_days=10) == _ids(desk, expires_within_days=3650, limit=1) == [later, tomorrow]
    assert _ids(stranger, expires_within_days=10) == [charlie.key_id]


def test_what_ends_soon_can_be_narrowed_too(
    desk: Desk, context: Context, alice: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    for key_id in (elsewhere[2], alice.key_id):
        execute(context, _END, id=key_id, days=5)
    execute(context, f"UPDATE source_keys SET created_at = {_DAY_AGO} WHERE id = :id", id=alice.key_row, days=100)

    assert _ids(desk, expires_within_days=5, source_id=elsewhere[1]) == [elsewhere[2]]
    assert _ids(desk, expires_within_days=5, unused_for_days=90, state="active") == [alice.key_id]
    assert _ids(desk, expires_within_days=5, state="expired") == []


def test_filters_narrow_each_other_over_pages(desk: Desk, alice: Tenant) -> None:
    keys = [_issue(desk, alice.source_id) for _ in range(5)]
    desk.post(f"/v1/keys/{keys[2]}/revoke")

    found = _ids(desk, state="active", never_used="true", source_id=alice.source_id, limit=2)

    assert found == [*(key for key in reversed(keys) if key != keys[2]), alice.key_id]


def test_a_cursor_opens_the_list_with_its_own_filters_only(desk: Desk, alice: Tenant) -> None:
    _issue(desk, alice.source_id)
    page = desk.get("/v1/keys", limit=1, state="active").json
    assert page is not None

    assert desk.get("/v1/keys", cursor=page["next_cursor"], state="active").status_code == 200
    assert pointers_of(desk.get("/v1/keys", cursor=page["next_cursor"])) == {"/cursor"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "stale"),
        ("never_used", "yes"),
        ("never_used", ""),
        ("unused_for_days", "0"),
        ("unused_for_days", "3651"),
        ("unused_for_days", "-1"),
        ("unused_for_days", "1.5"),
        ("unused_for_days", "٣"),
        ("expires_within_days", "0"),
        ("expires_within_days", "3651"),
        ("expires_within_days", "soon"),
        ("expires_within_days", ""),
        ("source_id", "no id!"),
        ("label", "x"),
    ],
)
def test_what_it_does_not_know_is_refused(desk: Desk, name: str, value: str) -> None:
    assert pointers_of(desk.get("/v1/keys", **{name: value})) == {f"/{name}"}
