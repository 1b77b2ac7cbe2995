"""/v1/sources/{id}/keys and /v1/keys: issue, list, read, change, revoke."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.config import Settings
from app.context import Context
from app.credentials.verification import Credentials
from app.database.engine import Database, TenantScope
from app.maintenance.usage import fold_usage
from app.management.common.authentication import authenticate
from app.management.common.etags import Target
from app.management.common.operators import Role
from app.management.keys.domain import NewKey, Rotation, issue_key, rotate_key
from app.management.tokens.domain import NewToken, issue_token
from tests.support.databases import SECRET_KEY, close
from tests.support.hashers import CountingHasher
from tests.support.operating import MOMENT, UNKNOWN_ID, ApiClient, at_once
from tests.support.people import Tenant, execute, rows
from tests.support.sending import error_of, pointers_of, send
from tests.support.waiting import wait_until

_SHOWN = {
    "id",
    "source_id",
    "label",
    "state",
    "created_at",
    "updated_at",
    "expires_at",
    "events_per_second",
    "allowed_event_types",
    "allowed_origins",
    "allowed_networks",
    "replaces",
    "replaced_by",
    "revoked_at",
    "first_used_at",
    "last_used_at",
    "last_addresses",
}


def _issue(api: ApiClient, tenant: Tenant, **chosen: Any) -> dict[str, Any]:
    return api.made(f"/v1/sources/{tenant.source_id}/keys", chosen)


def test_issuing_holds_no_connection_while_it_waits_for_argon2(
    settings: Settings, context: Context, alice: Tenant
) -> None:
    hasher = CountingHasher()
    slow = Credentials((SECRET_KEY,), argon2_runs_max=1, hasher=hasher)
    operator = authenticate(f"Bearer {alice.token}", context.credentials, context.database)
    database = Database(settings.database_url, pool_size=1)
    source = (alice.source_id, NewKey())
    issues = (
        lambda: issue_key(database, slow, operator, *source),
        lambda: rotate_key(database, slow, operator, Target(alice.key_id), Rotation()),
        lambda: issue_token(database, slow, operator, NewToken(role=Role.AUDITOR)),
    )
    try:
        for place, issue in enumerate(issues, start=1):
            hasher.may_finish.clear()
            with ThreadPoolExecutor(1) as pool:
                pending = pool.submit(issue)
                wait_until(lambda place=place: hasher.hashes == place)  # type: ignore[misc]
                with database.transaction(TenantScope.NONE):  # the only connection
                    hasher.may_finish.set()
                pending.result(timeout=10)
    finally:
        hasher.may_finish.set()
        close(database)


class TestIssue:
    def test_the_answer_alone_carries_the_key_and_the_key_works(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        response = api.post(f"/v1/sources/{alice.source_id}/keys", {"label": "till 1"})

        issued = response.json
        assert response.status_code == 201
        assert issued is not None
        assert set(issued) == _SHOWN | {"key"}
        assert issued["key"].startswith(f"lrb_sk_{issued['id'].removeprefix('key_')}_")
        assert response.headers["Cache-Control"] == "no-store"
        read = api.get(response.headers["Location"])
        assert read.json == {name: value for name, value in issued.items() if name != "key"}
        assert read.headers["ETag"] == response.headers["ETag"]
        assert send(client, alice, key=issued["key"]).status_code == 201

    def test_label_and_expiry_may_be_left_out(self, api: ApiClient, alice: Tenant) -> None:
        issued = _issue(api, alice)

        assert (issued["label"], issued["expires_at"]) == ("", None)
        assert (issued["revoked_at"], issued["last_used_at"]) == (None, None)
        assert (issued["first_used_at"], issued["last_addresses"]) == (None, [])

    def test_who_has_nothing_to_choose_needs_no_body(self, api: ApiClient, alice: Tenant) -> None:
        assert api.post(f"/v1/sources/{alice.source_id}/keys").status_code == 201

    def test_only_a_hash_of_the_key_is_kept(self, api: ApiClient, context: Context, alice: Tenant) -> None:
        key = _issue(api, alice)["key"]
        secret = key.split("_")[3][:33]

        tables = ("source_keys", "audit_entries")
        kept = [
            str(row)
            for table in tables
            for row in rows(context, f"SELECT t::text FROM {table} t WHERE workspace_id = :id", id=alice.workspace_row)
        ]
        assert kept
        assert not any(secret in row for row in kept)

    @pytest.mark.parametrize("moment", ["2099-01-31T12:00:00+02:00", "2099-01-31T10:00:00.000Z", "20990131T100000Z"])
    def test_an_expiry_is_kept_in_utc(self, api: ApiClient, alice: Tenant, moment: str) -> None:
        assert _issue(api, alice, expires_at=moment)["expires_at"] == "2099-01-31T10:00:00Z"

    @pytest.mark.parametrize(
        "moment",
        [
            "2099-01-31T12:00:00",
            "2020-01-31T12:00:00Z",
            "2099-02-31T12:00:00Z",
            "9999-12-31T23:59:59-23:59",
            "9999-12-31T23:59:59Z",
            "9999-01-01T00:00:00Z",
            "0001-01-01T00:00:00+23:59",
            "tomorrow",
            "",
            "\0",
            4_070_908_800,
            1e300,
            True,
            {},
        ],
    )
    def test_a_moment_that_is_past_or_unclear_is_refused(self, api: ApiClient, alice: Tenant, moment: object) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {"expires_at": moment})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/expires_at"}

    def test_a_rate_limit_may_be_given_along(self, api: ApiClient, alice: Tenant) -> None:
        assert _issue(api, alice)["events_per_second"] is None
        assert _issue(api, alice, events_per_second=5)["events_per_second"] == 5

    @pytest.mark.parametrize("rate", [0, -1, 10_000_001, 10**30, 1.5, "10", "", True, [], {}])
    def test_a_rate_limit_that_is_none_is_refused(self, api: ApiClient, alice: Tenant, rate: object) -> None:
        refused = api.post(f"/v1/sources/{alice.source_id}/keys", {"events_per_second": rate})

        assert refused.status_code == 422
        assert pointers_of(refused) == {"/events_per_second"}

    @pytest.mark.parametrize("written", ["1000.0", "1e3", "1000", "100000e-2"])
    def test_a_whole_number_is_one_however_it_is_written(self, api: ApiClient, alice: Tenant, written: str) -> None:
        body = f'{{"events_per_second": {written}}}'
        issued = api.post(f"/v1/sources/{alice.source_id}/keys", data=body, content_type="application/json")

        assert issued.status_code == 201
        assert issued.json is not None
        assert issued.json["events_per_second"] == 1000

    def test_a_disabled_source_may_get_a_key_which_stores_nothing_yet(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        api.post(f"/v1/sources/{alice.source_id}/disable")

        key = _issue(api, alice)["key"]

        assert error_of(send(client, alice, key=key))["code"] == "source_disabled"


class TestList:
    def test_it_holds_every_key_of_the_source_and_never_a_secret(self, api: ApiClient, alice: Tenant) -> None:
        newest = _issue(api, alice)["id"]
        api.post(f"/v1/keys/{alice.key_id}/revoke")

        listed = api.all_of(f"/v1/sources/{alice.source_id}/keys")

        assert [key["id"] for key in listed] == [newest, alice.key_id]
        assert all(set(key) == _SHOWN for key in listed)

    def test_another_sources_keys_are_not_in_it(self, api: ApiClient, alice: Tenant) -> None:
        other = api.made(f"/v1/environments/{alice.environment_id}/sources", {"name": "ERP", "type": "erp"})

        assert api.all_of(f"/v1/sources/{other['id']}/keys") == []


class TestChange:
    def test_label_and_expiry_change_each_alone(self, api: ApiClient, alice: Tenant) -> None:
        path = f"/v1/keys/{alice.key_id}"

        first = api.patch(path, {"label": "till 1"}).json
        second = api.patch(path, {"expires_at": "2099-01-31T12:00:00Z"}).json
        third = api.patch(path, {"expires_at": None, "label": ""}).json

        assert first is not None
        assert second is not None
        assert third is not None
        assert (first["label"], first["expires_at"]) == ("till 1", None)
        assert (second["label"], second["expires_at"]) == ("till 1", "2099-01-31T12:00:00Z")
        assert (third["label"], third["expires_at"]) == ("", None)

    def test_the_rate_limit_changes_alone_and_goes_back_to_the_default(
        self, api: ApiClient, context: Context, alice: Tenant
    ) -> None:
        path = f"/v1/keys/{alice.key_id}"
        api.patch(path, {"label": "till 1"})
        before = api.get(path)

        limited = api.patch(path, {"events_per_second": 100}, headers={"If-Match": before.headers["ETag"]})
        late = api.patch(path, {"events_per_second": 200}, headers={"If-Match": before.headers["ETag"]})
        default = api.patch(path, {"events_per_second": None})

        assert limited.json is not None
        assert default.json is not None
        assert (limited.json["label"], limited.json["events_per_second"]) == ("till 1", 100)
        assert limited.headers["ETag"] != before.headers["ETag"]
        assert late.status_code == 412
        assert default.json["events_per_second"] is None
        entries = rows(context, "SELECT after FROM audit_entries WHERE object_id = :id ORDER BY id", id=alice.key_id)
        assert [row.after for row in entries][-2:] == [{"events_per_second": 100}, {"events_per_second": None}]

    def test_an_expired_key_lives_again_if_its_operator_says_so(
        self, api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        execute(context, "UPDATE source_keys SET expires_at = now() WHERE id = :id", id=alice.key_row)
        assert send(client, alice).status_code == 401

        until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
        assert api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": until}).status_code == 200

        assert send(client, alice).status_code == 201

    @pytest.mark.parametrize("member", ["revoked_at", "key", "id", "last_used_at", "secret_hash", "source_id"])
    def test_what_is_not_for_operators_to_set_is_refused(self, api: ApiClient, alice: Tenant, member: str) -> None:
        refused = api.patch(f"/v1/keys/{alice.key_id}", {member: None})

        assert refused.status_code == 422
        assert pointers_of(refused) == {f"/{member}"}


class TestRevoke:
    def test_a_revoked_key_stores_nothing_from_that_answer_on(
        self, api: ApiClient, client: FlaskClient, alice: Tenant
    ) -> None:
        assert send(client, alice).status_code == 201

        revoked = api.post(f"/v1/keys/{alice.key_id}/revoke")

        assert revoked.status_code == 200
        assert revoked.json is not None
        assert MOMENT.fullmatch(revoked.json["revoked_at"])
        assert send(client, alice).status_code == 401

    def test_repeating_it_changes_nothing_more(self, api: ApiClient, alice: Tenant) -> None:
        responses = at_once([partial(api.post, f"/v1/keys/{alice.key_id}/revoke")] * 4)

        assert [each.status_code for each in responses] == [200] * 4
        assert len({each.data for each in responses}) == 1
        assert len({each.headers["ETag"] for each in responses}) == 1

    def test_a_revoked_key_never_lives_again(self, api: ApiClient, alice: Tenant) -> None:
        api.post(f"/v1/keys/{alice.key_id}/revoke")

        refused = api.patch(f"/v1/keys/{alice.key_id}", {"expires_at": None})

        assert refused.status_code == 409
        assert pointers_of(refused) == {"/expires_at"}
        assert api.patch(f"/v1/keys/{alice.key_id}", {"label": "leaked"}).status_code == 200

    def test_the_other_keys_of_the_source_live_on(self, api: ApiClient, client: FlaskClient, alice: Tenant) -> None:
        other = _issue(api, alice)["key"]

        api.post(f"/v1/keys/{alice.key_id}/revoke")

        assert send(client, alice, key=other).status_code == 201


def test_the_time_of_the_last_use_does_not_count_as_a_change(
    api: ApiClient, client: FlaskClient, context: Context, alice: Tenant
) -> None:
    before = api.get(f"/v1/keys/{alice.key_id}")
    assert send(client, alice).status_code == 201

    fold_usage(context.database)

    after = api.get(f"/v1/keys/{alice.key_id}")
    assert before.json is not None
    assert after.json is not None
    assert MOMENT.fullmatch(after.json["last_used_at"])
    assert after.json["updated_at"] == before.json["updated_at"]
    assert after.headers["ETag"] == before.headers["ETag"]


def test_an_unknown_key_is_not_found(api: ApiClient) -> None:
    assert api.get(f"/v1/keys/key_{UNKNOWN_ID}").status_code == 404
    assert api.post(f"/v1/keys/key_{UNKNOWN_ID}/revoke").status_code == 404
    assert api.post(f"/v1/sources/src_{UNKNOWN_ID}/keys", {}).status_code == 404
