"""POST /v1/events/ingest/batch: every refusal of the whole, its status, its code, and that nothing was stored."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from tests.ingest.test_batch import BATCH_PATH, NDJSON, body_of, send_batch, statuses_of
from tests.support.people import Tenant, events_of, execute, issue_key, rows, source_of
from tests.support.sending import error_of, event_for, pointers_of, send

_BYTES_MAX = 5_242_880


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture(autouse=True)
def _nothing_is_stored(context: Context, alice: Tenant) -> Iterator[None]:
    yield
    assert events_of(context, alice) == []
    for table in ("event_ledger", "idempotency_records", "usage_outbox"):
        assert rows(context, f"SELECT 1 FROM {table} WHERE project_id = :id", id=alice.project_row) == []


def _refused(response: TestResponse) -> tuple[int, str]:
    return response.status_code, error_of(response)["code"]


class Test400:
    @pytest.mark.parametrize(
        ("body", "position"),
        [
            (b"", "character 0"),
            (b"[]", "character 0"),
            (b'{"events": [1', "character 13"),
            (b'{"events": [1,]}', "character 1[34]"),  # Python 3.13 names the comma, earlier ones the bracket
            (b'{"events": [,1]}', "character 12"),
            (b'{"events": [1 2]}', "character 14"),
            (b'{"events": [1]} x', "character 16"),
            (b'{"events": [1],}', "character 15"),
            (b'{"events": [NaN]}', "character 12"),
            (b'{"events": [{"a": 01}]}', "character 19"),
            (b'{"events": [{"a": "\x01"}]}', "character 19"),
            (b"{events: []}", "character 1"),
            (b'\xef\xbb\xbf{"events": []}', "character 0"),
            (b'{"events": [{"a": "\xff"}]}', "byte 19"),
            (b'{"events": [{"a": "\\ud800"}, {"a": "\xff"}]}', "byte 36"),
            (gzip.compress(b"{}", mtime=0), "byte 1"),
        ],
    )
    def test_what_is_no_json_object_is_refused_with_its_position(
        self, client: FlaskClient, alice: Tenant, body: bytes, position: str
    ) -> None:
        response = send_batch(client, alice, body, "k")

        assert _refused(response) == (400, "bad_request")
        assert re.search(rf"{position}\b", error_of(response)["message"])

    @pytest.mark.parametrize("form", ["a list", "lines"])
    def test_the_message_for_another_form_than_announced_names_what_to_send(
        self, client: FlaskClient, alice: Tenant, form: str
    ) -> None:
        events = [json.dumps(event_for(alice))] * 2
        body = f"[{', '.join(events)}]" if form == "a list" else "\n".join(events)

        response = send_batch(client, alice, body.encode())

        assert _refused(response) == (400, "bad_request")
        assert "application/x-ndjson" in error_of(response)["message"]
        assert ("is a list" if form == "a list" else "line 2") in error_of(response)["message"]

    def test_a_byte_order_mark_is_named(self, client: FlaskClient, alice: Tenant) -> None:
        response = send_batch(client, alice, b'\xef\xbb\xbf{"events": []}')

        assert "byte order mark" in error_of(response)["message"]

    @pytest.mark.parametrize("opening", [b"[", b'{"events": ', b'{"events": [{"payload": ', b'{"events": [1], "x": '])
    def test_a_hundred_thousand_brackets_are_refused(self, client: FlaskClient, alice: Tenant, opening: bytes) -> None:
        assert _refused(send_batch(client, alice, opening + b"[" * 100_000)) == (400, "bad_request")

    @pytest.mark.parametrize(
        ("query", "pointers"),
        [
            ("?atomc=true", {"/atomc"}),
            ("?atomic=true&atomic=false", {"/atomic"}),
            ("?atomic=true&dry%2Frun=1&=x", {"/dry~1run", "/"}),
        ],
    )
    def test_a_parameter_that_is_not_known_or_given_twice_is_refused(
        self, client: FlaskClient, alice: Tenant, query: str, pointers: set[str]
    ) -> None:
        response = send_batch(client, alice, [event_for(alice)], query=query)

        assert response.status_code == 422
        assert pointers_of(response) == pointers

    @pytest.mark.parametrize("given", ["maybe", "", "yes", "2", "true "])
    def test_atomic_is_true_or_false(self, client: FlaskClient, alice: Tenant, given: str) -> None:
        response = send_batch(client, alice, [event_for(alice)], query=f"?atomic={given}")

        assert _refused(response) == (400, "bad_request")
        assert "atomic" in error_of(response)["message"]

    @pytest.mark.parametrize("key", [" ", "a b", "x" * 256, "a,b", '"a'])
    def test_a_malformed_idempotency_key_is_refused(self, client: FlaskClient, alice: Tenant, key: str) -> None:
        response = send_batch(client, alice, [event_for(alice)], key)

        assert _refused(response) == (400, "bad_request")
        assert "Idempotency-Key" in error_of(response)["message"]

    def test_a_compressed_body_that_is_cut_is_refused(self, client: FlaskClient, alice: Tenant) -> None:
        body = gzip.compress(body_of([event_for(alice)]))[:-1]

        assert _refused(send_batch(client, alice, body, headers={"Content-Encoding": "gzip"})) == (400, "bad_request")


class Test401:
    @pytest.mark.parametrize("key", ["", "x", "lrb_sk_" + "a" * 60])
    def test_what_is_no_key_is_refused(self, client: FlaskClient, alice: Tenant, key: str) -> None:
        _expect_401(send_batch(client, alice, [event_for(alice)], headers={"X-API-Key": key}))

    def test_the_message_for_a_management_token_names_what_belongs_here(
        self, client: FlaskClient, alice: Tenant
    ) -> None:
        response = send_batch(client, alice, [event_for(alice)], headers={"X-API-Key": alice.token})

        _expect_401(response)
        assert "source key" in error_of(response)["message"]

    @pytest.mark.parametrize("body", [None, b"not json", b'{"events": []}', b'{"events": [1], "x": 1}'])
    @pytest.mark.parametrize("key", [None, "k", "bad key"])
    def test_a_revoked_key_hears_of_that_and_not_of_its_faults(
        self, client: FlaskClient, context: Context, alice: Tenant, body: bytes | None, key: str | None
    ) -> None:
        assert error_of(send_batch(client, alice, b"caches the key"))["code"] == "bad_request"
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

        _expect_401(send_batch(client, alice, body or [event_for(alice)], key))

    def test_a_revoked_key_does_not_learn_that_its_body_is_of_the_wrong_kind_or_too_large(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

        _expect_401(send_batch(client, alice, b"x", content_type="text/plain"))
        _expect_401(send_batch(client, alice, b"x" * (_BYTES_MAX + 1)))
        _expect_401(send_batch(client, alice, [event_for(alice, severity="loud")], query="?atomic=true"))

    def test_an_expired_key_is_refused(self, client: FlaskClient, context: Context, alice: Tenant) -> None:
        _, _, key = issue_key(context, source_of(context, alice), expires_at=datetime.now(UTC) - timedelta(seconds=1))

        _expect_401(send_batch(client, alice, [event_for(alice)], headers={"X-API-Key": key}))

    def test_a_revoked_key_gets_no_replay(self, client: FlaskClient, context: Context, charlie: Tenant) -> None:
        assert statuses_of(send_batch(client, charlie, [event_for(charlie)], "k")) == ["stored"]
        execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=charlie.key_row)

        _expect_401(send_batch(client, charlie, [event_for(charlie)], "k"))


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("UPDATE sources SET disabled_at = now() WHERE id = :source", "source_disabled"),
        ("UPDATE projects SET archived_at = now() WHERE id = :project", "source_disabled"),
        ("UPDATE workspaces SET status = 'suspended' WHERE id = :workspace", "workspace_suspended"),
    ],
)
def test_403_when_what_stands_above_the_key_stops(
    client: FlaskClient, context: Context, alice: Tenant, change: str, code: str
) -> None:
    named = {"source": alice.source_row, "project": alice.project_row, "workspace": alice.workspace_row}
    execute(context, change, **{name: row for name, row in named.items() if f":{name}" in change})

    assert _refused(send_batch(client, alice, [event_for(alice)], "k")) == (403, code)


class Test413:
    @pytest.mark.parametrize("form", ["application/json", NDJSON])
    def test_a_body_of_one_byte_above_5_mebibytes_is_refused(
        self, client: FlaskClient, alice: Tenant, form: str
    ) -> None:
        assert _refused(send_batch(client, alice, b" " * _BYTES_MAX, content_type=form))[0] in (400, 422)
        assert _refused(send_batch(client, alice, b" " * (_BYTES_MAX + 1), content_type=form)) == (
            413,
            "payload_too_large",
        )

    @pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
    def test_a_bomb_is_refused_after_its_first_sparks(
        self, client: FlaskClient, alice: Tenant, encoding: str, compress: Any
    ) -> None:
        bomb = compress(bytes(50_000_000))
        assert len(bomb) < 100_000

        response = send_batch(client, alice, bomb, headers={"Content-Encoding": encoding})

        assert _refused(response) == (413, "payload_too_large")


class Test415:
    @pytest.mark.parametrize("kind", [None, "text/plain", "application/ndjson", f"{NDJSON}; charset=latin-1"])
    def test_what_is_neither_json_nor_ndjson_is_refused(
        self, client: FlaskClient, alice: Tenant, kind: str | None
    ) -> None:
        response = send_batch(client, alice, [event_for(alice)], content_type=kind)

        assert _refused(response) == (415, "unsupported_media_type")

    def test_an_unknown_encoding_is_refused_with_a_list_of_those_known(
        self, client: FlaskClient, alice: Tenant
    ) -> None:
        response = send_batch(client, alice, [event_for(alice)], headers={"Content-Encoding": "lzma"})

        assert _refused(response) == (415, "unsupported_media_type")
        assert "gzip" in response.headers["Accept-Encoding"]


class Test422:
    @pytest.mark.parametrize(
        ("body", "pointers"),
        [
            ("{}", {"/events"}),
            ('{"events": null}', {"/events"}),
            ('{"events": {}}', {"/events"}),
            ('{"events": []}', {"/events"}),
            ('{"events": [ ], "atomic": true}', {"/atomic"}),
            ('{"Events": [1]}', {"/Events", "/events"}),
            ('{"events": [1], "events": [1]}', {"/events"}),
            ('{"events": [1], "ev\\u0065nts": [1]}', {"/events"}),
            ('{"\\u0065vents": [1], "\\u0065vents": [1]}', {"/events"}),
            ('{"events": [], "events": [{"a": "\\""}]}', {"/events"}),
            ('{"events": ["\\\\"], "\\u0061": ["b"]}', {"/a"}),
            ('{"a/b~c": 1, "": 2, "events": []}', {"/a~1b~0c", "/"}),
            ('{"events": [' + "1," * 1_000 + "1]}", {"/events"}),
            ('{"events": ["\\ud800"' + ", 1" * 1_000 + "]}", {"/events"}),
        ],
    )
    def test_what_is_no_batch_of_1_to_1000_events_is_refused(
        self, client: FlaskClient, alice: Tenant, body: str, pointers: set[str]
    ) -> None:
        response = send_batch(client, alice, body.encode(), "k")

        assert _refused(response) == (422, "schema_validation_failed")
        assert pointers_of(response) == pointers

    @pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\t\n", b"1\n" * 1_001])
    def test_so_it_is_in_lines(self, client: FlaskClient, alice: Tenant, body: bytes) -> None:
        response = send_batch(client, alice, body, content_type=NDJSON)

        assert (_refused(response), pointers_of(response)) == ((422, "schema_validation_failed"), {"/events"})

    @pytest.mark.parametrize("form", ["application/json", NDJSON])
    def test_1001_valid_events_are_refused(self, client: FlaskClient, alice: Tenant, form: str) -> None:
        response = send_batch(client, alice, [event_for(alice)] * 1_001, content_type=form)

        assert _refused(response) == (422, "schema_validation_failed")


def test_the_single_endpoint_does_not_take_lines(client: FlaskClient, alice: Tenant) -> None:
    assert send(client, alice, content_type=NDJSON).status_code == 415
    assert client.put(BATCH_PATH).status_code == 405


def _expect_401(response: TestResponse) -> None:
    assert _refused(response) == (401, "invalid_source_key")
    assert response.headers["WWW-Authenticate"] == 'ApiKey realm="lariba"'


def test_a_revoked_key_does_not_learn_that_atomic_is_wrong(
    client: FlaskClient, context: Context, alice: Tenant
) -> None:
    execute(context, "UPDATE source_keys SET revoked_at = now() WHERE id = :id", id=alice.key_row)

    answer = client.post(f"{BATCH_PATH}?atomic=maybe", json={"events": [{}]}, headers={"X-API-Key": alice.key})

    assert answer.status_code == 401
