"""GET /v1/keys: every key of the workspace, and filters that find the stale ones and those that end soon."""

from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.maintenance.usage import fold_usage
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.operating import UNKNOWN_ID, ApiClient, api_with
from tests.support.people import Tenant, execute
from tests.support.sending import pointers_of, send

_DAY_AGO = "now() - interval '1 day' * :days"
_END = "UPDATE source_keys SET expires_at = now() + interval '1 day' * :days WHERE public_id = :id"


def _ids(api: ApiClient, **query: Any) -> list[str]:
    return [key["id"] for key in api.all_of("/v1/keys", **query)]


def _issue(api: ApiClient, source_id: str) -> str:
    key_id = api.made(f"/v1/sources/{source_id}/keys", {})["id"]
    assert isinstance(key_id, str)
    return key_id


@pytest.fixture(name="elsewhere")
def _elsewhere(api: ApiClient) -> tuple[str, str, str]:
    """Another project, its source and that source's key."""
    project = api.made("/v1/projects", {"name": "other"})["id"]
    environment = api.get(f"/v1/projects/{project}/environments").json["data"][0]["id"]  # type: ignore[index]
    source = api.made(f"/v1/environments/{environment}/sources", {"name": "erp", "type": "erp"})["id"]
    return project, source, _issue(api, source)


def test_it_holds_the_keys_of_all_sources_newest_first(
    api: ApiClient, alice: Tenant, charlie: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    newest = _issue(api, alice.source_id)

    assert _ids(api) == [newest, elsewhere[2], alice.key_id]
    assert _ids(api, limit=1) == [newest, elsewhere[2], alice.key_id]


def test_it_shows_what_reading_the_key_shows(api: ApiClient, alice: Tenant) -> None:
    (listed,) = api.all_of("/v1/keys")

    assert listed == api.get(f"/v1/keys/{alice.key_id}").json


def test_projects_and_sources_can_be_picked(api: ApiClient, alice: Tenant, elsewhere: tuple[str, str, str]) -> None:
    project, source, key = elsewhere

    assert _ids(api, project_id=project) == _ids(api, source_id=source) == [key]
    assert _ids(api, project_id=alice.project_id, source_id=source) == []
    assert _ids(api, source_id=UNKNOWN_ID) == []


def test_a_token_for_some_projects_lists_their_keys_only(
    app: Flask, context: Context, api: ApiClient, alice: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    narrow = api_with(app, context, alice, NewToken(role=Role.AUDITOR, label="narrow", project_ids=(elsewhere[0],)))

    assert _ids(narrow) == [elsewhere[2]]
    assert _ids(narrow, project_id=alice.project_id) == []
    for key_id in (elsewhere[2], alice.key_id):
        execute(context, _END, id=key_id, days=5)
    assert _ids(narrow, expires_within_days=10) == [elsewhere[2]]
    assert _ids(api, expires_within_days=10) == [elsewhere[2], alice.key_id]


def test_a_key_that_was_rotated_needs_no_successor_and_is_not_among_those_that_end_soon(
    api: ApiClient, context: Context, alice: Tenant
) -> None:
    ending = _issue(api, alice.source_id)
    execute(context, _END, id=ending, days=5)
    successor = (api.post(f"/v1/keys/{ending}/rotate", {}).json or {})["id"]

    assert _ids(api, expires_within_days=10) == [successor]
    assert _ids(api, expires_within_days=10, state="active") == [successor]
    assert _ids(api, state="active") == [successor, ending, alice.key_id]


def test_keys_of_archived_sources_are_not_listed(
    api: ApiClient, alice: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    api.delete(f"/v1/sources/{elsewhere[1]}")

    assert _ids(api) == [alice.key_id]


def test_active_expired_and_revoked_divide_the_keys(api: ApiClient, context: Context, alice: Tenant) -> None:
    endless, later, expired, revoked, both = (_issue(api, alice.source_id) for _ in range(5))
    past = "UPDATE source_keys SET expires_at = now() WHERE public_id IN (:one, :other)"
    execute(context, past, one=expired, other=both)
    execute(context, "UPDATE source_keys SET expires_at = '2099-01-01Z' WHERE public_id = :id", id=later)
    for key_id in (revoked, both):
        api.post(f"/v1/keys/{key_id}/revoke")

    assert _ids(api, state="active") == [later, endless, alice.key_id]
    assert _ids(api, state="expired") == [expired]
    assert _ids(api, state="revoked") == [both, revoked]
    for state in ("active", "expired", "revoked"):
        for key_id in _ids(api, state=state):
            assert (api.get(f"/v1/keys/{key_id}").json or {})["state"] == state


def test_what_changes_a_keys_state_shows_it(api: ApiClient, context: Context, alice: Tenant) -> None:
    path = f"/v1/keys/{alice.key_id}"
    execute(context, _END, id=alice.key_id, days=0)

    answers = [api.get(path), api.patch(path, {"expires_at": "2099-01-01T00:00:00Z"}), api.post(f"{path}/revoke")]

    assert [(each.json or {})["state"] for each in answers] == ["expired", "active", "revoked"]


def test_keys_that_never_brought_an_event_can_be_found(
    api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
) -> None:
    unused = _issue(api, alice.source_id)
    send(client, alice)
    fold_usage(context.database)

    assert _ids(api, never_used="true") == [unused]
    assert _ids(api, never_used="false") == [alice.key_id]


def test_a_key_is_stale_since_its_last_use_or_since_it_was_issued(
    api: ApiClient, context: Context, alice: Tenant
) -> None:
    old_and_unused, old_and_used, new = (_issue(api, alice.source_id) for _ in range(3))
    issued = f"UPDATE source_keys SET created_at = {_DAY_AGO} WHERE public_id IN (:one, :other)"
    execute(context, issued, one=old_and_unused, other=old_and_used, days=100)
    used = f"UPDATE source_keys SET last_used_at = {_DAY_AGO} WHERE public_id = :id"
    execute(context, used, id=old_and_used, days=30)

    assert _ids(api, unused_for_days=30) == [old_and_used, old_and_unused]
    assert _ids(api, unused_for_days=31) == _ids(api, unused_for_days=100) == [old_and_unused]
    assert _ids(api, unused_for_days=101) == []
    assert new in _ids(api)


def test_keys_that_end_soon_can_be_found_in_time(
    api: ApiClient, stranger: ApiClient, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    tomorrow, later, over, revoked = (_issue(api, alice.source_id) for _ in range(4))
    days = {tomorrow: 1, later: 10, over: -1, revoked: 1, charlie.key_id: 1}
    for key_id, until in days.items():
        execute(context, _END, id=key_id, days=until)
    api.post(f"/v1/keys/{revoked}/revoke")

    assert _ids(api, expires_within_days=9) == [tomorrow]
    assert _ids(api, expires_within_days=10) == _ids(api, expires_within_days=3650, limit=1) == [later, tomorrow]
    assert _ids(stranger, expires_within_days=10) == [charlie.key_id]


def test_what_ends_soon_can_be_narrowed_too(
    api: ApiClient, context: Context, alice: Tenant, elsewhere: tuple[str, str, str]
) -> None:
    for key_id in (elsewhere[2], alice.key_id):
        execute(context, _END, id=key_id, days=5)
    execute(context, f"UPDATE source_keys SET created_at = {_DAY_AGO} WHERE id = :id", id=alice.key_row, days=100)

    assert _ids(api, expires_within_days=5, source_id=elsewhere[1]) == [elsewhere[2]]
    assert _ids(api, expires_within_days=5, unused_for_days=90, state="active") == [alice.key_id]
    assert _ids(api, expires_within_days=5, state="expired") == []


def test_filters_narrow_each_other_over_pages(api: ApiClient, alice: Tenant) -> None:
    keys = [_issue(api, alice.source_id) for _ in range(5)]
    api.post(f"/v1/keys/{keys[2]}/revoke")

    found = _ids(api, state="active", never_used="true", source_id=alice.source_id, limit=2)

    assert found == [*(key for key in reversed(keys) if key != keys[2]), alice.key_id]


def test_a_cursor_opens_the_list_with_its_own_filters_only(api: ApiClient, alice: Tenant) -> None:
    _issue(api, alice.source_id)
    page = api.get("/v1/keys", limit=1, state="active").json
    assert page is not None

    assert api.get("/v1/keys", cursor=page["next_cursor"], state="active").status_code == 200
    assert pointers_of(api.get("/v1/keys", cursor=page["next_cursor"])) == {"/cursor"}


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
def test_what_it_does_not_know_is_refused(api: ApiClient, name: str, value: str) -> None:
    assert pointers_of(api.get("/v1/keys", **{name: value})) == {f"/{name}"}
