"""ETag and If-Match: a change meant for one state never falls on another."""

from collections.abc import Callable, Mapping
from functools import partial

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from app.context import Context
from app.management.common.mutations import mutation, update
from app.management.common.operators import at_the_shell
from app.models import Source
from tests.support.operating import ApiClient, at_once
from tests.support.people import Tenant, execute
from tests.support.sending import error_of

Change = Callable[[Mapping[str, str | None]], TestResponse]


@pytest.fixture(name="changes")
def _changes(api: ApiClient, alice: Tenant) -> dict[str, Change]:
    """Every operation on a single object that takes If-Match, by the path of its object."""
    project, environment = f"/v1/projects/{alice.project_id}", f"/v1/environments/{alice.environment_id}"
    source, key = f"/v1/sources/{alice.source_id}", f"/v1/keys/{alice.key_id}"

    def change(method: str, path: str, body: object = None) -> Change:
        return lambda headers: api.call(method, path, body, headers=headers)

    return {
        "update key": change("PATCH", key, {"label": "new"}),
        "revoke key": change("POST", f"{key}/revoke"),
        "update source": change("PATCH", source, {"name": "new"}),
        "disable source": change("POST", f"{source}/disable"),
        "enable source": change("POST", f"{source}/enable"),
        "archive source": change("DELETE", source),
        "update environment": change("PATCH", environment, {"name": "new"}),
        "archive environment": change("DELETE", environment),
        "update project": change("PATCH", project, {"name": "new"}),
        "archive project": change("DELETE", project),
        "update workspace": change("PATCH", "/v1/workspace", {"name": "new"}),
        "revoke token": change("POST", f"/v1/tokens/{alice.token_id}/revoke"),
    }


def test_a_change_for_another_state_is_refused_by_every_operation(changes: dict[str, Change]) -> None:
    for name, change in changes.items():
        refused = change({"If-Match": '"0123456789abcdef01234567"'})
        assert refused.status_code == 412, name
        assert error_of(refused)["code"] == "precondition_failed"


def test_any_state_will_do_for_a_star(changes: dict[str, Change]) -> None:
    for name in ("update key", "disable source", "enable source"):
        assert changes[name]({"If-Match": "*"}).status_code == 200


def test_an_update_must_say_which_state_it_means_and_an_action_need_not(changes: dict[str, Change]) -> None:
    for name, change in changes.items():
        if name.startswith("update "):
            refused = change({"If-Match": None})
            assert (refused.status_code, error_of(refused)["code"]) == (428, "precondition_required"), name
    for name in ("disable source", "enable source", "revoke key", "archive source"):
        assert changes[name]({"If-Match": None}).status_code in (200, 204), name


def test_a_change_for_the_state_that_was_read_goes_through_once(api: ApiClient, alice: Tenant) -> None:
    path = f"/v1/projects/{alice.project_id}"
    read = {"If-Match": api.get(path).headers["ETag"]}

    first = api.patch(path, {"description": "first"}, headers=read)
    second = api.patch(path, {"description": "second"}, headers=read)

    assert (first.status_code, second.status_code) == (200, 412)
    assert api.get(path).headers["ETag"] == first.headers["ETag"]
    again = api.patch(path, {"description": "second"}, headers={"If-Match": first.headers["ETag"]})
    assert again.status_code == 200


def test_a_state_that_is_gone_is_said_before_a_name_that_is_taken(api: ApiClient) -> None:
    stale = {"If-Match": '"old"'}
    archived, live = api.made("/v1/projects", {"name": "Shop"}), api.made("/v1/projects", {"name": "Other"})
    api.delete(f"/v1/projects/{archived['id']}")
    api.made("/v1/projects", {"name": "Shop"})

    for headers, status in ((stale, 412), ({}, 409)):
        assert api.patch(f"/v1/projects/{live['id']}", {"name": "Shop"}, headers=headers).status_code == status
        assert api.post(f"/v1/projects/{archived['id']}/restore", headers=headers).status_code == status


def test_one_of_several_states_is_enough_and_none_never_is(api: ApiClient, alice: Tenant) -> None:
    path = f"/v1/projects/{alice.project_id}"
    etag = api.get(path).headers["ETag"]

    assert api.patch(path, {}, headers={"If-Match": f'"other", {etag}'}).status_code == 200
    assert api.patch(path, {}, headers={"If-Match": ""}).status_code == 412


_BY_PROXIES = ['W/"{}"', '"{}-gzip"', '"{}--gzip"', '"{}-br"', 'W/"{}-gzip"', 'W/"other", W/"{}"']


@pytest.mark.parametrize("changed", _BY_PROXIES)
def test_a_tag_that_a_compressing_proxy_has_changed_is_still_ours_and_goes_through_once(
    api: ApiClient, alice: Tenant, changed: str
) -> None:
    path = f"/v1/projects/{alice.project_id}"
    read = {"If-Match": changed.format(api.get(path).headers["ETag"].strip('"'))}

    assert api.patch(path, {"description": "first"}, headers=read).status_code == 200
    assert api.patch(path, {"description": "second"}, headers=read).status_code == 412


@pytest.mark.parametrize("other", ['"{}-other"', '"gzip-{}"', '"{}-gzip-gzip"', '"{}0"', 'W/"-gzip"', "{}-gzip-"])
def test_any_other_tag_names_no_state(api: ApiClient, alice: Tenant, other: str) -> None:
    path = f"/v1/projects/{alice.project_id}"
    tag = api.get(path).headers["ETag"].strip('"')

    assert api.patch(path, {}, headers={"If-Match": other.format(tag)}).status_code == 412


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_changes_for_one_state_at_once_one_goes_through(
    api: ApiClient, bob: ApiClient, alice: Tenant, attempt: int
) -> None:
    path = f"/v1/sources/{alice.source_id}"
    read = {"If-Match": api.get(path).headers["ETag"]}
    calls = [partial(each.patch, path, {"description": str(n)}, headers=read) for n, each in enumerate((api, bob) * 4)]

    responses = at_once(calls)

    assert sorted(each.status_code for each in responses) == [200] + [412] * 7
    (winner,) = (each.json for each in responses if each.status_code == 200)
    assert api.get(path).json == winner


def test_every_change_has_a_state_of_its_own_however_fast_they_come(
    api: ApiClient, bob: ApiClient, alice: Tenant
) -> None:
    path = f"/v1/sources/{alice.source_id}"
    calls = [partial(each.patch, path, {"description": str(n)}) for n, each in enumerate((api, bob) * 6)]

    responses = at_once(calls)

    assert {each.status_code for each in responses} == {200}
    assert len({each.headers["ETag"] for each in responses}) == len(calls)


def test_a_change_waits_longer_for_others_than_an_event_does(context: Context, alice: Tenant) -> None:
    """Else the last of many would get a 503 on a slow machine instead of a 412."""
    with mutation(context.database, at_the_shell(alice.workspace_row)) as session:
        patience = session.execute(text("SHOW lock_timeout")).scalar_one()

    assert patience == "3s"


def test_no_state_is_called_like_an_earlier_one_whatever_the_clock_says(context: Context, alice: Tenant) -> None:
    """Of two that queue for a row the later writer may have begun in the same microsecond, or with a clock set back."""
    ahead = "UPDATE sources SET updated_at = now() + interval '1 hour' WHERE id = :id"
    execute(context, ahead, id=alice.source_row)
    states = []
    with context.database.transaction(alice.workspace_row) as session:
        source = session.scalars(Source.within(alice.workspace_row)).one()
        for description in ("one", "two", "three"):
            states.append(source.updated_at)
            values = {"description": description}
            update(session, at_the_shell(alice.workspace_row), source, "source.update", values)
        states.append(source.updated_at)

    assert states == sorted(set(states))


def test_a_strangers_condition_is_not_even_looked_at(stranger: ApiClient, api: ApiClient, alice: Tenant) -> None:
    path = f"/v1/projects/{alice.project_id}"
    etag = api.get(path).headers["ETag"]

    for condition in (etag, '"other"', "*"):
        assert stranger.patch(path, {"name": "mine"}, headers={"If-Match": condition}).status_code == 404
