"""POST /v1/events/ingest: every refusal, its status, its code, and that nothing was stored."""

import gzip
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from app.credentials.verification import Credentials
from tests.support.people import Tenant, events_of, execute, issue_key, source_of
from tests.support.sending import PATH, error_of, event_for, pointers_of, send


@pytest.fixture(autouse=True)
def _nothing_is_stored(context: Context, alice: Tenant) -> Iterator[None]:
    yield
    assert events_of(context, alice) == []


class Test400:
    @pytest.mark.parametrize(
        ("body", "position"),
        [
            ("", "character 0"),
            ('{"a": 1', "character 7"),
            ('{"a": 1,}', "character 8"),
            ('{"a": 1} x', "character 9"),
            ("{'a': 1}", "character 1"),
            ('{"a": nul}', "character 6"),
            ('{"a": "NaN", "b": NaN}', "character 18"),
            ('{"a": -Infinity}', "character 6"),
            ('{"a": "\x01"}', "character 7"),
            ('{"a": 01}', "character 7"),
            ("[]", "character 0"),
            ("\ufeff{}", "character 0"),
            (b'{"a": "\xff"}', "byte 7"),
            (b'{"a": "\xed\xa0\x80"}', "byte 7"),
            (gzip.compress(b"{}", mtime=0), "byte 1"),
        ],
    )
    def test_what_is_not_a_json_object_is_refused_with_its_position(
        self, client: FlaskClient, alice: Tenant, body: str | bytes, position: str
    ) -> None:
        response = send(client, alice, body)

        assert response.status_code == 400
        error = error_of(response)
        assert error["code"] == "bad_request"
        assert position in error["message"]
        assert error["retryable"] is False

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            (b"", "is empty"),
            (b" []", "is a list"),
            (b'[{"event_type": "a"}]', "is a list"),
            (b"[" * 1_000, "is a list"),
            (b'"text"', "is a string"),
            (b"-1", "is a number"),
            (b"null\n", "is null"),
            (b'{"event_type": "a"}\n{"event_type": "b"}', "Nothing may follow the object"),
        ],
    )
    def test_the_message_for_anything_but_an_object_names_what_it_is_and_what_to_send(
        self, client: FlaskClient, alice: Tenant, body: bytes, named: str
    ) -> None:
        message = error_of(send(client, alice, body))["message"]

        assert named in message
        assert message.endswith(
            "An event is an object; several go to /v1/events/ingest/batch, as a list called events or as lines."
        )

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
    def test_a_byte_order_mark_is_named(self, client: FlaskClient, alice: Tenant, encoding: str) -> None:
        response = send(client, alice, json.dumps(event_for(alice)).encode(encoding))

        assert response.status_code == 400
        assert "byte order mark" in error_of(response)["message"]

    @pytest.mark.parametrize("opening", ["", '{"payload" ', '{"a": nul, "payload": '])
    def test_what_is_wrong_before_a_hundred_thousand_brackets_is_reported_first(
        self, client: FlaskClient, alice: Tenant, opening: str
    ) -> None:
        response = send(client, alice, opening + "[" * 100_000)

        assert response.status_code == 400
        assert error_of(response)["code"] == "bad_request"

    @pytest.mark.parametrize(
        "key",
        [
            "",
            " ",
            "a b",
            "ä",
            "x" * 256,
            '"',
            '"a',
            '"a"b',
            '"a";p=1',
            '""',
            '"a b"',
            "a,b",
            '"a","b"',
            "\x7f",
        ],
    )
    def test_a_malformed_idempotency_key_is_refused(self, client: FlaskClient, alice: Tenant, key: str) -> None:
        response = send(client, alice, idempotency_key=key)

        assert response.status_code == 400
        assert "Idempotency-Key" in error_of(response)["message"]


class Test401:
    @pytest.mark.parametrize(
        "key", ["", "x", "YOUR_SOURCE_API_KEY", "lrb_sk_", "é" * 67, "lrb_sk_" + "a" * 60, "a" * 10**6]
    )
    def test_what_is_no_key_is_refused(self, client: FlaskClient, alice: Tenant, key: str) -> None:
        _expect_401(send(client, alice, key=key))

    def test_a_missing_key_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        _expect_401(client.post(PATH, json=event_for(alice)))

    @pytest.mark.parametrize("place", [0, 8, 30, -1])
    def test_a_key_with_one_character_changed_is_refused(self, client: FlaskClient, alice: Tenant, place: int) -> None:
        other = "B" if alice.key[place] != "B" else "C"
        place %= len(alice.key)
        _expect_401(send(client, alice, key=alice.key[:place] + other + alice.key[place + 1 :]))

    def test_a_genuine_key_that_is_not_on_record_is_refused(
        self, client: FlaskClient, alice: Tenant, credentials: Credentials
    ) -> None:
        _expect_401(send(client, alice, key=credentials.mint("sk")[1]))

    def test_a_key_minted_with_another_secret_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        _expect_401(send(client, alice, key=Credentials(("y" * 40,), argon2_runs_max=1).mint("sk")[1]))

    def test_the_message_for_a_management_token_names_what_belongs_here(
        self, client: FlaskClient, alice: Tenant
    ) -> None:
        response = send(client, alice, key=alice.token)

        _expect_401(response)
        assert "source key" in error_of(response)["message"]

    @pytest.mark.parametrize("is_cached", [False, True])
    @pytest.mark.parametrize("body", ["valid", "not json"])
    def test_a_revoked_key_is_refused_at_once_whatever_it_sends(
        self, client: FlaskClient, context: Context, charlie: Tenant, *, is_cached: bool, body: str
    ) -> None:
        if is_cached:
            assert send(client, charlie).status_code == 201
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=charlie.key_row)

        _expect_401(send(client, charlie, None if body == "valid" else body))

    def test_a_key_whose_row_belongs_to_another_key_since_a_restore_is_refused(
        self, client: FlaskClient, context: Context, charlie: Tenant
    ) -> None:
        """The process remembers the key's row; the row's number has been given out again meanwhile."""
        assert send(client, charlie, event_for(charlie, source_id="x")).status_code == 403
        execute(context, "UPDATE source_keys SET public_id = public_id || 'gone' WHERE id = :id", id=charlie.key_row)

        _expect_401(send(client, charlie))
        _expect_401(send(client, charlie, "not json"))
        assert events_of(context, charlie) == []

    def test_an_expired_key_is_refused(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        _, _, key = issue_key(context, source_of(context, alice), expires_at=datetime.now(UTC) - timedelta(seconds=1))

        _expect_401(send(client, alice, key=key))

    def test_a_key_works_until_the_moment_it_expires(
        self, client: FlaskClient, context: Context, charlie: Tenant
    ) -> None:
        _, _, key = issue_key(context, source_of(context, charlie), expires_at=datetime.now(UTC) + timedelta(hours=1))

        assert send(client, charlie, key=key).status_code == 201


_OUT_OF_USE = {
    "UPDATE sources SET disabled_at = now() WHERE id = :source": "source is disabled. Enable",
    "UPDATE sources SET archived_at = now() WHERE id = :source": "source is archived. Restore",
    "UPDATE environments SET archived_at = now() WHERE project_id = :project": "The environment of this key's source",
    "UPDATE projects SET archived_at = now() WHERE id = :project": "The project of this key's source",
}


def _send_batch(client: FlaskClient, tenant: Tenant) -> TestResponse:
    headers = {"X-API-Key": tenant.key, "Idempotency-Key": "k"}
    return client.post(f"{PATH}/batch", json={"events": [event_for(tenant)]}, headers=headers)


class Test403:
    @pytest.mark.parametrize("change", _OUT_OF_USE)
    def test_what_is_out_of_use_is_named_with_the_way_back(
        self, client: FlaskClient, context: Context, alice: Tenant, change: str
    ) -> None:
        named = {"source": alice.source_row, "project": alice.project_row}
        execute(context, change, **{name: row for name, row in named.items() if f":{name}" in change})
        way_back = {
            "sources": f"POST /v1/sources/{alice.source_id}/{'enable' if 'disabled' in change else 'restore'}",
            "environments": f"POST /v1/environments/{alice.environment_id}/restore",
            "projects": f"POST /v1/projects/{alice.project_id}/restore",
        }[change.split()[1]]

        for refused in (send(client, alice), _send_batch(client, alice)):
            assert error_of(refused)["code"] == "source_disabled"
            assert _OUT_OF_USE[change] in error_of(refused)["message"]
            assert way_back in error_of(refused)["message"]

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ("UPDATE workspaces SET status = 'suspended' WHERE id = :workspace", "workspace_suspended"),
            *((change, "source_disabled") for change in _OUT_OF_USE),
        ],
    )
    def test_a_key_stops_at_once_when_what_stands_above_it_stops(
        self, client: FlaskClient, context: Context, tenant: Callable[[], Tenant], change: str, code: str
    ) -> None:
        bob = tenant()
        assert send(client, bob).status_code == 201
        named = {"source": bob.source_row, "project": bob.project_row, "workspace": bob.workspace_row}
        execute(context, change, **{name: row for name, row in named.items() if f":{name}" in change})

        response = send(client, bob)

        assert (response.status_code, error_of(response)["code"]) == (403, code)
        assert len(events_of(context, bob)) == 1

    @pytest.mark.parametrize("source_id", ["src_other", "", "x" * 10_000])
    def test_a_source_id_that_is_not_the_keys_is_refused(
        self, client: FlaskClient, alice: Tenant, source_id: str
    ) -> None:
        response = send(client, alice, event_for(alice, source_id=source_id))

        assert (response.status_code, error_of(response)["code"]) == (403, "source_mismatch")

    def test_another_workspaces_source_is_refused_like_one_that_does_not_exist(
        self, client: FlaskClient, alice: Tenant, charlie: Tenant
    ) -> None:
        answers = {
            send(client, alice, event_for(alice, source_id=source_id), headers={"X-Request-ID": "same"}).data
            for source_id in (charlie.source_id, "src_nobody")
        }

        assert len(answers) == 1

    def test_an_environment_that_is_not_the_sources_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        response = send(client, alice, event_for(alice, environment="Production"))

        assert (response.status_code, error_of(response)["code"]) == (403, "environment_mismatch")


class Test413:
    def test_a_body_of_ten_megabytes_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        response = send(client, alice, b"x" * 10_000_000)

        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")

    def test_a_payload_one_byte_above_256_kibibytes_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        payload = {"text": "x" * (262_144 - len('{"text": ""}') + 1)}

        response = send(client, alice, event_for(alice, payload=payload))

        assert (response.status_code, error_of(response)["code"]) == (413, "payload_too_large")
        assert pointers_of(response) == {"/payload"}


class Test415:
    @pytest.mark.parametrize(
        "content_type",
        [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
    )
    def test_what_is_not_declared_as_utf_8_json_is_refused(
        self, client: FlaskClient, alice: Tenant, content_type: str | None
    ) -> None:
        response = send(client, alice, content_type=content_type)

        assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


class Test422:
    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"event_type": None}, "/event_type"),
            ({"source_id": None}, "/source_id"),
            ({"payload": None}, "/payload"),
            ({"payload": []}, "/payload"),
            ({"payload": "x"}, "/payload"),
            ({"payload": 1.5}, "/payload"),
            ({"event_type": ""}, "/event_type"),
            ({"event_type": 7}, "/event_type"),
            ({"event_type": 7.5}, "/event_type"),
            ({"event_type": "a..b"}, "/event_type"),
            ({"event_type": ".a"}, "/event_type"),
            ({"event_type": "a\n"}, "/event_type"),
            ({"event_type": "zahlung.ü"}, "/event_type"),
            ({"event_type": "a" * 201}, "/event_type"),
            ({"event_id": ""}, "/event_id"),
            ({"event_id": "a b"}, "/event_id"),
            ({"event_id": "a\t"}, "/event_id"),
            ({"event_id": "\u200b"}, "/event_id"),
            ({"event_id": "x" * 129}, "/event_id"),
            ({"event_id": 12}, "/event_id"),
            ({"severity": "CRITICAL"}, "/severity"),
            ({"severity": 1}, "/severity"),
            ({"environment": ["production"]}, "/environment"),
            ({"timestamp": "yesterday"}, "/timestamp"),
            ({"timestamp": 1780000000}, "/timestamp"),
            ({"timestamp": "2026-02-30T00:00:00Z"}, "/timestamp"),
            ({"timestamp": ""}, "/timestamp"),
            ({"timestamp": "2026-06-01x10:00:00Z"}, "/timestamp"),
            ({"timestamp": "2026-06-01T10:00:00 Z"}, "/timestamp"),
            ({"timestamp": "2026-06-01T10:00:00.Z"}, "/timestamp"),
            ({"timestamp": "2026-06-01T24:00:00Z"}, "/timestamp"),
            ({"timestamp": "2026-06-01T23:59:60Z"}, "/timestamp"),
            ({"timestamp": "2026-W23-1"}, "/timestamp"),
            ({"timestamp": 1780000000.5}, "/timestamp"),
            ({"timestamp": "2026-06-01T10:00:00+24:00"}, "/timestamp"),
            ({"timestamp": "0000-01-01T00:00:00Z"}, "/timestamp"),
            ({"timestamp": "\u0662026-06-01T10:00:00Z"}, "/timestamp"),
            ({"event_id": "\ue000"}, "/event_id"),
            ({"timestamp": "0001-01-01T00:00:00+14:00"}, "/timestamp"),
            ({"sevirity": "info"}, "/sevirity"),
            ({"a/b~c": 1}, "/a~1b~0c"),
        ],
    )
    def test_a_wrong_member_is_named(
        self, client: FlaskClient, alice: Tenant, changes: dict[str, Any], pointer: str
    ) -> None:
        response = send(client, alice, event_for(alice, **changes))

        assert (response.status_code, error_of(response)["code"]) == (422, "schema_validation_failed")
        assert pointers_of(response) == {pointer}

    @pytest.mark.parametrize("member", ["event_id", "event_type", "source_id", "environment", "severity", "timestamp"])
    def test_null_is_not_absent(self, client: FlaskClient, alice: Tenant, member: str) -> None:
        response = send(client, alice, json.dumps(event_for(alice) | {member: None}))

        assert (response.status_code, pointers_of(response)) == (422, {f"/{member}"})

    def test_all_faults_are_reported_at_once(self, client: FlaskClient, alice: Tenant) -> None:
        response = send(client, alice, '{"severity": "x", "severity": "y", "oops": 1, "payload": {"a": "\\u0000"}}')

        assert pointers_of(response) == {"/severity", "/oops", "/event_type", "/source_id", "/payload/a"}

    def test_a_member_given_twice_in_the_envelope_is_named(self, client: FlaskClient, alice: Tenant) -> None:
        body = f'{{"event_type": "a", "event_type": "b", "source_id": "{alice.source_id}", "payload": {{}}}}'

        response = send(client, alice, body)

        assert (response.status_code, pointers_of(response)) == (422, {"/event_type"})

    @pytest.mark.parametrize(
        ("payload", "pointer"),
        [
            (r'{"a": {"b": "x\u0000"}}', "/payload/a/b"),
            (r'{"a\u0000": 1}', "/payload"),
            (r'{"a": ["ok", "\ud800"]}', "/payload/a/1"),
            (r'{"a": "\udc00\ud800"}', "/payload/a"),
            (r'{"\ud800": 1}', "/payload"),
            ('{"a": 1e400000}', "/payload/a"),
            ('{"a": [-1e-400000]}', "/payload/a/0"),
            ('{"a": 1e99999999999999999999999}', "/payload/a"),
            ('{"a": 0e99999}', "/payload/a"),
            ('{"a": ' + "9" * 20_000 + "}", "/payload/a"),
            ('{"a": 1.' + "0" * 20_000 + "}", "/payload/a"),
            ('{"a": 1e4300}', "/payload/a"),
            ('{"a": [1e308, -1e309]}', "/payload/a/1"),
            ('{"a": [' + ",".join(["1e300"] * 900) + "]}", ""),
            ('{"a": {"b": 1e400000, "b": 1}}', ""),
        ],
    )
    def test_what_json_allows_but_postgresql_cannot_keep_is_named(
        self, client: FlaskClient, alice: Tenant, payload: str, pointer: str
    ) -> None:
        body = f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {payload}}}'

        response = send(client, alice, body)

        assert (response.status_code, pointers_of(response)) == (422, {pointer})

    def test_a_payload_that_nests_33_levels_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        payload = '{"a":' * 33 + "1" + "}" * 33
        body = f'{{"event_type": "a", "source_id": "{alice.source_id}", "payload": {payload}}}'

        assert pointers_of(send(client, alice, body)) == {"/payload" + "/a" * 32}


def test_a_reused_idempotency_key_is_refused(client: FlaskClient, context: Context, charlie: Tenant) -> None:
    send(client, charlie, idempotency_key="k")

    response = send(client, charlie, event_for(charlie, payload={"other": 1}), idempotency_key="k")

    assert (response.status_code, error_of(response)["code"]) == (422, "idempotency_key_reused")
    assert len(events_of(context, charlie)) == 1


def test_a_known_event_id_with_other_content_is_refused(client: FlaskClient, context: Context, charlie: Tenant) -> None:
    send(client, charlie, event_for(charlie, event_id="e"))

    response = send(client, charlie, event_for(charlie, event_id="e", payload={"other": 1}))

    assert (response.status_code, error_of(response)["code"]) == (409, "duplicate_event")
    assert len(events_of(context, charlie)) == 1


def test_a_caller_may_ask_for_problem_details(client: FlaskClient, alice: Tenant) -> None:
    response = send(client, alice, "{}", headers={"Accept": "application/problem+json", "X-Request-ID": "abc-1"})

    assert response.mimetype == "application/problem+json"
    problem = json.loads(response.data)
    assert problem["type"] == "urn:lariba:error:schema_validation_failed"
    assert (problem["status"], problem["request_id"]) == (422, "abc-1")
    assert len(problem["details"]) == 3


@pytest.mark.parametrize("request_id", ["x" * 129, "a b", "<script>", ""])
def test_a_request_id_that_is_not_sane_is_replaced(client: FlaskClient, alice: Tenant, request_id: str) -> None:
    response = send(client, alice, "{}", headers={"X-Request-ID": request_id})

    assert response.headers["X-Request-ID"].startswith("req_")


def _expect_401(response: Any) -> None:
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_source_key")
    assert response.headers["WWW-Authenticate"] == 'ApiKey realm="lariba"'
