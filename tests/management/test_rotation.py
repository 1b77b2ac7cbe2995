"""POST /v1/keys/{id}/rotate, and a source that is created with its first key."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.maintenance.key_life import mark_expired_keys
from app.management.common.operators import Role
from app.management.tokens.domain import NewToken
from tests.support.operating import UNKNOWN_ID, ApiClient, api_with, at_once
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.sending import error_of, event_for, pointers_of, send

_CHOSEN = {
    "label": "till 1",
    "events_per_second": 50,
    "allowed_event_types": ["payment.*"],
    "allowed_origins": ["https://shop.example"],
    "allowed_networks": ["127.0.0.0/8"],
}


def _rotate(api: ApiClient, key_id: str, **chosen: Any) -> dict[str, Any]:
    return api.made(f"/v1/keys/{key_id}/rotate", chosen)


def _read(api: ApiClient, key_id: str) -> dict[str, Any]:
    read = api.get(f"/v1/keys/{key_id}").json
    assert isinstance(read, dict)
    return read


def _until(moment: str) -> timedelta:
    return datetime.fromisoformat(moment) - datetime.now(UTC)


class TestSuccessor:
    def test_it_inherits_everything_the_end_included(self, api: ApiClient, alice: Tenant) -> None:
        old = api.made(f"/v1/sources/{alice.source_id}/keys", _CHOSEN | {"expires_at": "2099-01-31T12:00:00Z"})

        response = api.post(f"/v1/keys/{old['id']}/rotate")

        new = response.json
        assert response.status_code == 201
        assert new is not None
        assert _CHOSEN.items() <= new.items()
        assert (new["source_id"], new["expires_at"]) == (alice.source_id, "2099-01-31T12:00:00Z")
        assert new["key"].startswith(f"lrb_sk_{new['id'].removeprefix('key_')}_")
        assert response.headers["Location"] == f"/v1/keys/{new['id']}"
        assert response.headers["Cache-Control"] == "no-store"
        assert _read(api, new["id"]) == {name: value for name, value in new.items() if name != "key"}

    def test_it_may_be_given_another_end_or_none(self, api: ApiClient, alice: Tenant) -> None:
        later = _rotate(api, alice.key_id, expires_at="2099-01-31T12:00:00Z")

        assert later["expires_at"] == "2099-01-31T12:00:00Z"
        assert _rotate(api, later["id"], expires_at=None)["expires_at"] is None

    def test_each_names_the_other(self, api: ApiClient, alice: Tenant) -> None:
        second = _rotate(api, alice.key_id)["id"]
        third = _rotate(api, second)["id"]

        chain = [(key["replaces"], key["replaced_by"]) for key in (_read(api, it) for it in (alice.key_id, second))]
        listed = api.all_of(f"/v1/sources/{alice.source_id}/keys")

        assert chain == [(None, second), (alice.key_id, third)]
        assert [(key["id"], key["replaces"]) for key in listed] == [
            (third, second),
            (second, alice.key_id),
            (alice.key_id, None),
        ]

    def test_it_can_be_rotated_limited_and_revoked_like_any_key(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        new = _rotate(api, alice.key_id)

        api.patch(f"/v1/keys/{new['id']}", {"allowed_event_types": ["other"]})
        assert error_of(send(client, alice, key=new["key"]))["code"] == "event_type_not_allowed"
        api.post(f"/v1/keys/{new['id']}/revoke")
        assert send(client, alice, key=new["key"]).status_code == 401
        assert send(client, alice).status_code == 201


class TestGrace:
    def test_both_keys_work_during_it(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=60)

        assert send(client, alice).status_code == 201
        assert send(client, alice, key=new["key"]).status_code == 201
        assert len(events_of(context, alice)) == 2

    @pytest.mark.parametrize(("chosen", "seconds"), [({}, 86_400), ({"grace_seconds": 3600}, 3600)])
    def test_the_old_key_ends_with_it(
        self, api: ApiClient, alice: Tenant, chosen: dict[str, int], seconds: int
    ) -> None:
        _rotate(api, alice.key_id, **chosen)

        remaining = _until(_read(api, alice.key_id)["expires_at"])
        assert timedelta(seconds=seconds - 30) < remaining <= timedelta(seconds=seconds)

    def test_after_it_the_old_key_is_refused(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=60)
        execute(context, "UPDATE source_keys SET expires_at = now() - interval '1 ms' WHERE id = :id", id=alice.key_row)

        assert send(client, alice).status_code == 401
        assert send(client, alice, key=new["key"]).status_code == 201

    def test_it_never_lasts_longer_than_the_old_key_would_have(self, api: ApiClient, alice: Tenant) -> None:
        ends = (datetime.now(UTC) + timedelta(hours=1)).replace(microsecond=0).isoformat().replace("+00:00", "Z")
        api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": ends})

        _rotate(api, alice.key_id, grace_seconds=7200)

        assert _read(api, alice.key_id)["expires_at"] == ends

    def test_without_one_the_old_key_is_refused_from_that_answer_on(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=0)

        assert send(client, alice).status_code == 401
        assert send(client, alice, key=new["key"]).status_code == 201

    def test_without_one_it_stays_refused_whatever_becomes_of_the_clock(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        """As after a failover, a moment later, to a server whose clock is an hour behind."""
        _rotate(api, alice.key_id, grace_seconds=0)
        later = "expires_at = expires_at + interval '1 hour', expired_at = expired_at + interval '1 hour'"
        execute(context, f"UPDATE source_keys SET {later} WHERE id = :id", id=alice.key_row)

        assert error_of(send(client, alice))["code"] == "invalid_source_key"
        assert events_of(context, alice) == []

    def test_without_one_its_end_has_the_one_entry_that_each_expiry_has(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        _rotate(api, alice.key_id, grace_seconds=0)
        mark_expired_keys(context.database, now=datetime.now(UTC) + timedelta(minutes=1))

        (entry,) = api.all_of("/v1/audit", object_id=alice.key_id, action="source_key.expire")
        assert entry["before"] == {"expired_at": None}
        assert entry["after"] == {"expired_at": _read(api, alice.key_id)["expires_at"]}

    @pytest.mark.parametrize("grace", [-1, 2_592_001, 1.5, "60", None, True, [], 10**30])
    def test_what_is_none_is_refused(self, api: ApiClient, alice: Tenant, grace: object) -> None:
        refused = api.post(f"/v1/keys/{alice.key_id}/rotate", {"grace_seconds": grace})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/grace_seconds"}

    def test_its_bounds_are_taken(self, api: ApiClient, alice: Tenant) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=2_592_000)

        _rotate(api, new["id"], grace_seconds=0)

    def test_a_retry_with_the_new_key_is_answered_from_the_record_of_the_old_one(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        event = event_for(alice, event_id="e")
        first = send(client, alice, event, idempotency_key="k")
        new = _rotate(api, alice.key_id, grace_seconds=0)

        retried = send(client, alice, event, key=new["key"], idempotency_key="k")

        assert (retried.status_code, retried.data) == (first.status_code, first.data)
        assert retried.headers["Idempotent-Replayed"] == "true"
        assert len(events_of(context, alice)) == 1

    @pytest.mark.parametrize("grace", [0, 3600])
    def test_the_old_key_cannot_be_given_a_later_end(
        self, api: ApiClient, client: FlaskClient, alice: Tenant, grace: int
    ) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=grace)
        ends = _read(api, alice.key_id)["expires_at"]

        refused = [api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": end}) for end in (None, "2099-01-31T12:00:00Z")]

        assert [each.status_code for each in refused] == [409] * 2
        for each in refused:
            assert pointers_of(each) == {"/expires_at"}
            assert new["id"] in error_of(each)["message"]
        assert _read(api, alice.key_id)["expires_at"] == ends
        assert send(client, alice).status_code == (201 if grace else 401)

    def test_the_end_that_it_has_can_be_sent_back(self, api: ApiClient, alice: Tenant) -> None:
        """As a client does that changes something else of what it has read."""
        _rotate(api, alice.key_id, grace_seconds=3600)
        ends = _read(api, alice.key_id)["expires_at"]

        assert api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": ends, "label": "old"}).status_code == 200

    def test_it_can_be_made_shorter_and_other_things_of_the_old_key_changed(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        _rotate(api, alice.key_id, grace_seconds=3600)
        sooner = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0).isoformat().replace("+00:00", "Z")

        changed = api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": sooner, "label": "old"}).json or {}

        assert (changed["expires_at"], changed["label"]) == (sooner, "old")


class TestRefusal:
    def test_a_key_is_rotated_once_and_the_answer_names_its_successor(self, api: ApiClient, alice: Tenant) -> None:
        new = _rotate(api, alice.key_id, grace_seconds=0)["id"]

        refused = api.post(f"/v1/keys/{alice.key_id}/rotate")

        assert refused.status_code == 409
        assert error_of(refused)["code"] == "conflict"
        assert new in error_of(refused)["message"]

    def test_of_many_at_once_one_wins(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        responses = at_once([partial(api.post, f"/v1/keys/{alice.key_id}/rotate")] * 6)

        assert sorted(each.status_code for each in responses) == [201] + [409] * 5
        (won,) = [each.json for each in responses if each.status_code == 201]
        assert won is not None
        assert all(won["id"] in each.text for each in responses)
        assert len(rows(context, "SELECT 1 FROM source_keys WHERE source_id = :id", id=alice.source_row)) == 2

    def test_a_revoked_key_has_no_successor(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        api.post(f"/v1/keys/{alice.key_id}/revoke")

        assert api.post(f"/v1/keys/{alice.key_id}/rotate").status_code == 409
        assert len(rows(context, "SELECT 1 FROM source_keys WHERE source_id = :id", id=alice.source_row)) == 1

    def test_an_expired_key_has_no_successor(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        execute(context, "UPDATE source_keys SET expires_at = now() WHERE id = :id", id=alice.key_row)

        assert api.post(f"/v1/keys/{alice.key_id}/rotate").status_code == 409

    def test_a_key_that_has_changed_meanwhile_is_not_rotated(self, api: ApiClient, alice: Tenant) -> None:
        seen = api.get(f"/v1/keys/{alice.key_id}").headers["ETag"]
        api.patch(f"/v1/keys/{alice.key_id}", {"label": "other"})

        refused = api.post(f"/v1/keys/{alice.key_id}/rotate", headers={"If-Match": seen})

        assert refused.status_code == 412

    def test_a_change_meanwhile_is_said_before_what_became_of_the_key(self, api: ApiClient, alice: Tenant) -> None:
        """Who rotates a state that is gone reads again, and learns then that the key was rotated or revoked."""
        key = f"/v1/keys/{alice.key_id}"
        seen = {"If-Match": api.get(key).headers["ETag"]}
        api.made(f"{key}/rotate", {})

        assert api.post(f"{key}/rotate", headers=seen).status_code == 412
        assert api.patch(key, {"expires_at": None}, headers=seen).status_code == 412
        assert api.patch(key, {"expires_at": None}).status_code == api.post(f"{key}/rotate").status_code == 409

    def test_strangers_and_readers_rotate_nothing(
        self, app: Flask, context: Context, stranger: ApiClient, alice: Tenant
    ) -> None:
        auditor = api_with(app, context, alice, NewToken(role=Role.AUDITOR))

        assert stranger.post(f"/v1/keys/{alice.key_id}/rotate").status_code == 404
        assert stranger.post(f"/v1/keys/key_{UNKNOWN_ID}/rotate").status_code == 404
        assert auditor.post(f"/v1/keys/{alice.key_id}/rotate").status_code == 403
        assert len(rows(context, "SELECT 1 FROM source_keys WHERE source_id = :id", id=alice.source_row)) == 1


def test_a_rotation_that_is_repeated_under_its_key_issues_no_second_successor(
    api: ApiClient, context: Context, alice: Tenant
) -> None:
    def rotate() -> Any:
        return api.post(f"/v1/keys/{alice.key_id}/rotate", {}, headers={"Idempotency-Key": "k"})

    first, second = rotate(), rotate()

    assert (first.status_code, second.status_code) == (201, 409)
    assert error_of(second)["code"] == "credential_already_shown"
    assert first.json["id"] in error_of(second)["message"]
    assert len(rows(context, "SELECT 1 FROM source_keys WHERE source_id = :id", id=alice.source_row)) == 2


def test_the_audit_log_has_entries_of_both_keys_and_no_secret(api: ApiClient, context: Context, alice: Tenant) -> None:
    api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})
    etag = api.get(f"/v1/keys/{alice.key_id}").headers["ETag"]

    new = _rotate(api, alice.key_id)

    entries = rows(
        context,
        "SELECT action, object_id, before, after FROM audit_entries WHERE workspace_id = :id ORDER BY id DESC LIMIT 2",
        id=alice.workspace_row,
    )
    by_action = {entry.action: entry for entry in entries}
    assert by_action["source_key.rotate"].object_id == alice.key_id
    assert by_action["source_key.rotate"].after["replaced_by"] == new["id"]
    assert by_action["source_key.rotate"].before["replaced_by"] is None
    assert by_action["source_key.issue"].object_id == new["id"]
    assert by_action["source_key.issue"].after["replaces"] == alice.key_id
    assert new["key"].split("_")[3][:33] not in str(entries)
    # Its end stayed as it was, and it is another state all the same.
    assert api.get(f"/v1/keys/{alice.key_id}").headers["ETag"] != etag


class TestFirstKey:
    def test_a_source_may_be_created_with_a_key_that_works(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        source = api.made(
            f"/v1/environments/{alice.environment_id}/sources",
            {"name": "Shop", "type": "website", "key": {"label": "first", "allowed_event_types": ["payment.*"]}},
        )

        key = source["key"]
        assert (key["source_id"], key["label"], key["allowed_event_types"]) == (source["id"], "first", ["payment.*"])
        assert _read(api, key["id"]) == {name: value for name, value in key.items() if name != "key"}
        sent = send(client, alice, event_for(alice, source_id=source["id"]), key=key["key"])
        assert sent.status_code == 201

    @pytest.mark.parametrize("key", [{}, {"key": None}])
    def test_who_wants_none_gets_none(self, api: ApiClient, alice: Tenant, key: dict[str, None]) -> None:
        source = api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": "x", "type": "erp"} | key)

        assert "key" not in source
        assert api.all_of(f"/v1/sources/{source['id']}/keys") == []

    def test_an_empty_key_is_one_with_nothing_chosen(self, api: ApiClient, alice: Tenant) -> None:
        source = api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": "x", "type": "erp", "key": {}})

        assert source["key"]["label"] == ""

    def test_what_is_wrong_with_the_key_is_by_action_by_its_place_and_nothing_is_made(
        self, api: ApiClient, alice: Tenant
    ) -> None:
        path = f"/v1/environments/{alice.environment_id}/sources"

        refused = [
            api.post(path, {"name": "x", "type": "erp", "key": key})
            for key in ({"lable": "x"}, {"allowed_origins": ["https://a.example"]}, {"allowed_networks": ["x"]}, 1)
        ]

        assert [each.status_code for each in refused] == [422] * 4
        assert [pointers_of(each) for each in refused[:3]] == [
            {"/key/lable"},
            {"/key/allowed_event_types"},
            {"/key/allowed_networks/0"},
        ]
        assert [source["id"] for source in api.all_of(path)] == [alice.source_id]

    def test_a_name_that_is_taken_issues_no_key(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        refused = api.post(
            f"/v1/environments/{alice.environment_id}/sources", {"name": "checkout", "type": "erp", "key": {}}
        )

        assert refused.status_code == 409
        assert len(rows(context, "SELECT 1 FROM source_keys WHERE workspace_id = :id", id=alice.workspace_row)) == 1

    def test_repeated_under_its_idempotency_key_it_is_made_once(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/environments/{alice.environment_id}/sources"

        def create(**key: Any) -> Any:
            body = {"name": "Shop", "type": "website"} | key
            return api.post(path, body, headers={"Idempotency-Key": f"k{bool(key)}"})

        with_key = [create(key={}) for _ in range(2)]
        api.delete(f"/v1/sources/{with_key[0].json['id']}")
        without = [create() for _ in range(2)]

        assert [each.status_code for each in with_key] == [201, 409]
        assert error_of(with_key[1])["code"] == "credential_already_shown"
        assert with_key[0].json["key"]["id"] in error_of(with_key[1])["message"]
        assert [each.status_code for each in without] == [201, 201]
        assert without[0].json["id"] == without[1].json["id"]
