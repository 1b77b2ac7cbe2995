"""POST /v1/events/ingest/batch: what is wrong with one event is that event's matter, unless it is all or nothing."""

import json
import tracemalloc
from typing import Any

import msgspec
import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from app.errors import Refusal
from app.ingest.batch.body import EVENTS_MAX, read_batch
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import Envelope
from tests.ingest.test_batch import NDJSON, body_of, send_batch, statuses_of, verdicts_of
from tests.support.people import Tenant, events_of, rows
from tests.support.sending import error_of, event_for, pointers_of, send

_TEMPLATE = '{"event_type": "a", "source_id": "SOURCE", "payload": PAYLOAD}'
_WRONG = [
    '{"severity": "x", "severity": "y", "oops": 1, "payload": {"a": "\\u0000"}}',
    "[]",
    "null",
    "1",
    '"text"',
    "{}",
    '{"event_type": "a", "event_type": "b", "source_id": "SOURCE", "payload": {}}',
    '{"event_type": "a", "event\\u005ftype": "b", "source_id": "SOURCE", "payload": {}}',
    _TEMPLATE.replace("PAYLOAD", r'{"half": "\ud800"}'),
    _TEMPLATE.replace("PAYLOAD", r'{"half": "\ud800 and more"}'),
    _TEMPLATE.replace("PAYLOAD", '{"big": 1e400000}'),
    _TEMPLATE.replace("PAYLOAD", '{"a":' * 33 + "1" + "}" * 33),
    _TEMPLATE.replace("PAYLOAD", '{"a":' * 400 + "1" + "}" * 400),
    _TEMPLATE.replace("PAYLOAD", '{"text": "' + "x" * 262_144 + '"}'),
    _TEMPLATE.replace("PAYLOAD", "null"),
    _TEMPLATE.replace('"SOURCE"', '"src_other"').replace("PAYLOAD", "{}"),
    _TEMPLATE.replace("PAYLOAD", '{}, "environment": "staging"'),
    _TEMPLATE.replace("PAYLOAD", '{}, "event_id": " "'),
]


@pytest.fixture(name="client")
def _client(app: Flask) -> FlaskClient:
    return app.test_client()


class TestRejected:
    @pytest.mark.parametrize("form", ["application/json", NDJSON])
    def test_each_wrong_event_gets_the_verdict_of_a_single_request_and_its_neighbours_are_stored(
        self, client: FlaskClient, context: Context, alice: Tenant, form: str
    ) -> None:
        wrong = [text.replace("SOURCE", alice.source_id) for text in _WRONG]
        singles = [error_of(send(client, alice, text)) for text in wrong]
        events = [
            text for pair in zip(wrong, [json.dumps(event_for(alice))] * len(wrong), strict=True) for text in pair
        ]

        verdicts = verdicts_of(send_batch(client, alice, events, content_type=form))

        refused = [{name: it.get(name) for name in ("code", "message", "retryable", "details")} for it in verdicts[::2]]
        assert refused == [
            {name: it.get(name) for name in ("code", "message", "retryable", "details")} for it in singles
        ]
        assert [verdict["status"] for verdict in verdicts[1::2]] == ["stored"] * len(wrong)
        assert len(events_of(context, alice)) == len(wrong)

    def test_an_event_larger_than_a_single_request_is_too_large_here_too(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        large = json.dumps(event_for(alice))[:-1] + " " * 524_288 + "}"

        assert send(client, alice, large).status_code == 413
        assert statuses_of(send_batch(client, alice, [large, event_for(alice)])) == ["payload_too_large", "stored"]
        assert len(events_of(context, alice)) == 1

    def test_the_first_ten_faults_of_an_event_are_reported(self, client: FlaskClient, alice: Tenant) -> None:
        (verdict,) = verdicts_of(send_batch(client, alice, [{f"x{n}": 1 for n in range(50)}]))

        assert len(verdict["details"]) == 10

    def test_the_answer_stays_small_whatever_is_wrong(self, client: FlaskClient, alice: Tenant) -> None:
        """A pointer may be as long as its event's names; the answer is kept in the database."""
        deep = '{"payload": ' + ('{"' + "\U0001f600" * 128 + '": ') * 8 + "[" + "1e99999," * 9 + "1e99999]" + "}" * 9

        response = send_batch(client, alice, [deep] * 1_000, "k")

        assert len(response.data) < 4_000_000
        assert all(len(it["details"]) == 1 for it in verdicts_of(response))
        assert verdicts_of(response)[0]["details"][0]["pointer"] == "/payload" + ("/" + "\U0001f600" * 128) * 2

    def test_what_postgresql_refuses_is_refused_alone_and_in_order(
        self, client: FlaskClient, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The readers let none through that we know of; these are made behind their back."""
        monkeypatch.setattr("app.ingest.batch.body.read_common_envelope", _poisoning)
        poison = event_for(alice, event_type="poison")
        events = [event_for(alice, event_id="e", payload={"n": n}) for n in (1, 1, 2)]

        response = send_batch(client, alice, [poison, *events[:2], poison, events[2], poison], "k")

        assert [verdict["status"] for verdict in verdicts_of(response)[1:3]] == ["stored", "duplicate"]
        refused = "schema_validation_failed"
        assert statuses_of(response)[3:] == [refused, "duplicate_event", refused]
        assert [event.payload_text for event in events_of(context, alice)] == ['{"n": 1}']
        assert send_batch(client, alice, [poison, *events[:2], poison, events[2], poison], "k").data == response.data


class TestLines:
    @pytest.mark.parametrize("end", ["\n", "\r\n", " \t\r\n", "\n\n \r\n\t\n"])
    @pytest.mark.parametrize(("start", "is_ended"), [("", True), ("", False), ("\r\n \n", False)])
    def test_blank_lines_and_a_missing_last_line_break_are_nothing(
        self, client: FlaskClient, alice: Tenant, end: str, start: str, *, is_ended: bool
    ) -> None:
        lines = [json.dumps(event_for(alice, event_id=name)) for name in "abc"]
        body = start + end.join(lines) + (end if is_ended else "")

        verdicts = verdicts_of(send_batch(client, alice, body.encode(), content_type=NDJSON))

        assert [(verdict["event_id"], verdict["status"]) for verdict in verdicts] == [(it, "stored") for it in "abc"]

    @pytest.mark.parametrize(
        "line", [b"not json", b'{"a": "\xff"}', b"\xef\xbb\xbf{}", b"{} {}", b"\x0c", b"[" * 90_000, b'{"a": NaN}']
    )
    def test_one_bad_line_is_one_rejected_event(
        self, client: FlaskClient, context: Context, alice: Tenant, line: bytes
    ) -> None:
        good = json.dumps(event_for(alice)).encode()

        response = send_batch(client, alice, b"\n".join([good, line, good]), content_type=NDJSON)

        assert statuses_of(response) == ["stored", "bad_request", "stored"]
        assert verdicts_of(response)[1]["message"] == error_of(send(client, alice, line))["message"]
        assert len(events_of(context, alice)) == 2

    def test_an_event_over_several_lines_is_several_bad_ones(self, client: FlaskClient, alice: Tenant) -> None:
        body = json.dumps(event_for(alice), indent=1).encode()

        assert set(statuses_of(send_batch(client, alice, body, content_type=NDJSON))) == {"bad_request"}


class TestAtomic:
    @pytest.mark.parametrize("form", ["application/json", NDJSON])
    def test_all_are_stored_if_none_is_rejected(
        self, client: FlaskClient, context: Context, alice: Tenant, form: str
    ) -> None:
        send(client, alice, event_for(alice, event_id="old"))
        events = [event_for(alice, event_id=name) for name in ("old", "new", "new")]

        response = send_batch(client, alice, events, "k", "?atomic=true", form)

        assert statuses_of(response) == ["duplicate", "stored", "duplicate"]
        assert send_batch(client, alice, events, "k", "?atomic=1", form).headers["Idempotent-Replayed"] == "true"
        assert len(events_of(context, alice)) == 2

    def test_nothing_is_stored_and_the_culprits_are_named_if_some_are_rejected(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        wrong: list[Any] = [event_for(alice, severity="x"), "[]", event_for(alice, environment="x")]
        twice = [event_for(alice, event_id="e"), event_for(alice, event_id="e", payload={})]

        response = send_batch(client, alice, [event_for(alice), *wrong, *twice], "k", "?atomic=true")

        assert (response.status_code, error_of(response)["code"]) == (422, "batch_rejected")
        assert pointers_of(response) == {"/events/1/severity", "/events/2", "/events/3", "/events/5"}
        assert "4 of 6 events" in error_of(response)["message"]
        for table in ("events", "event_ledger", "idempotency_records", "usage_outbox"):
            assert rows(context, f"SELECT 1 FROM {table} WHERE project_id = :id", id=alice.project_row) == []

    def test_a_batch_that_was_refused_leaves_its_key_free(
        self, client: FlaskClient, context: Context, alice: Tenant
    ) -> None:
        send_batch(client, alice, [event_for(alice), event_for(alice, severity="x")], "k", "?atomic=true")

        assert statuses_of(send_batch(client, alice, [event_for(alice)] * 2, "k", "?atomic=true")) == ["stored"] * 2
        assert len(events_of(context, alice)) == 2

    @pytest.mark.parametrize("query", ["", "?atomic=false", "?atomic=0", "?atomic=FALSE"])
    def test_without_atomic_each_event_stands_for_itself(self, client: FlaskClient, alice: Tenant, query: str) -> None:
        response = send_batch(client, alice, [event_for(alice), event_for(alice, severity="x")], query=query)

        assert statuses_of(response) == ["stored", "schema_validation_failed"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"events": [' + b"11," * 1_700_000 + b"1]}",
        b'{"events": [' + b"[]," * 1_700_000 + b"1]}",
        b'{"x": [' + b"1.5," * 1_300_000 + b"1]}",
        b'{"events": ["\\ud800"' + b",{}" * 1_700_000 + b"]}",
        b"\n" * 5_200_000,
        b"11\n" * 1_700_000,
        b"{" + b",".join(b'"%d": 1' % n for n in range(400_000)) + b"}",
        body_of([f'{{"x{n}": {{{", ".join(f"{chr(34)}{m}{chr(34)}: []" for m in range(420))}}}}}' for n in range(300)]),
    ],
    ids=range(8),
)
def test_no_body_of_5_mebibytes_takes_much_more_memory_than_its_size(body: bytes) -> None:
    form = NDJSON if body[:1] in b"\n1" else "application/json"
    assert 1_000_000 < len(body) < 5_242_880
    tracemalloc.start()
    batch = _read(body, form)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert batch is None or len(batch) <= EVENTS_MAX
    assert peak < 40_000_000


def _read(body: bytes, form: str) -> list[Any] | None:
    try:
        return read_batch(body, form, is_atomic=False, event_bytes_max=524_288).events
    except Refusal:
        return None


def _poisoning(text: bytes) -> Envelope | None:
    envelope = read_common_envelope(text)
    if envelope is None or envelope.event_type != "poison":
        return envelope
    return msgspec.structs.replace(envelope, payload=b'{"x": "\\u0000"}')
