"""POST /v1/events/ingest/batch: what any batch is answered follows from what its events alone would be answered."""

import json
from itertools import count
from typing import Any

from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app.context import Context
from tests.ingest.test_batch import NDJSON, send_batch, verdicts_of
from tests.support.examples import examples
from tests.support.people import Tenant, rows
from tests.support.sending import error_of, send

_any_machine = settings(
    max_examples=examples(60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
_example = count()

_texts = st.sampled_from(
    ["", "a", "a.b", "a..b", "info", "error", "2026-06-01", "production", "x" * 201, "\ue000", "ü"]
)
_numbers = st.sampled_from(["1", "1.0", "10e-1", "1e400000", "-0", "0.1", "9" * 40])
_payloads = st.sampled_from(
    ["{}", '{"a": 1}', '{"a": 1.0}', '{"a": 2}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[]", "1"]
)
_members: dict[str, st.SearchStrategy[str]] = {
    "event_id": st.sampled_from(['"ID-1"', '"ID-2"', '"\\u0049D-1"', '""', "1"]),
    "event_type": _texts.map(json.dumps),
    "source_id": st.sampled_from(['"SOURCE"'] * 6 + ['"src_other"', "null"]),
    "environment": _texts.map(json.dumps),
    "severity": _texts.map(json.dumps),
    "timestamp": _texts.map(json.dumps) | _numbers,
    "payload": _payloads | _numbers.map('{{"n": {}}}'.format),
    "other": _numbers,
}
# Mostly right, so that most batches hold events that meet each other in the database.
_right = st.builds(
    '{{"event_id": {}, "event_type": "a", "source_id": "SOURCE", "payload": {}}}'.format,
    st.sampled_from(['"ID-1"', '"ID-2"', '"ID-3"']),
    st.sampled_from(['{"a": 1}', '{"a": 1.0}', '{"a": 2}']),
)
_any = st.lists(
    st.sampled_from(sorted(_members)).flatmap(lambda it: st.tuples(st.just(it), _members[it])), max_size=8
).map(lambda members: "{" + ", ".join(f'"{name}": {text}' for name, text in members) + "}")
_events = st.lists(_right | _right | _any | _numbers, min_size=1, max_size=8)


@_any_machine
@given(events=_events, form=st.sampled_from(["application/json", NDJSON]))
def test_a_batch_gives_each_event_the_verdict_that_single_requests_in_the_same_order_would(
    app: Flask, context: Context, alice: Tenant, charlie: Tenant, events: list[str], form: str
) -> None:
    prefix = f"{next(_example)}"
    client = app.test_client()

    singles = [_of_single(send(client, alice, _for(event, alice, prefix))) for event in events]
    batch = send_batch(client, charlie, [_for(event, charlie, prefix) for event in events], content_type=form)

    assert [_of_verdict(verdict) for verdict in verdicts_of(batch)] == singles
    assert _stored(context, charlie) == _stored(context, alice)


@_any_machine
@given(events=_events)
def test_an_atomic_batch_is_stored_exactly_when_no_event_of_it_would_be_rejected(
    app: Flask, context: Context, alice: Tenant, charlie: Tenant, events: list[str]
) -> None:
    prefix = f"{next(_example)}"
    client = app.test_client()
    before = _stored(context, charlie)

    plain = send_batch(client, alice, [_for(event, alice, prefix) for event in events])
    atomic = send_batch(client, charlie, [_for(event, charlie, prefix) for event in events], query="?atomic=true")

    rejected = [at for at, verdict in enumerate(verdicts_of(plain)) if verdict["status"] == "rejected"]
    assert atomic.status_code == (422 if rejected else 200)
    if rejected:
        assert {int(it["pointer"].split("/")[2]) for it in error_of(atomic)["details"]} == set(rejected)
        assert _stored(context, charlie) == before


def _for(event: str, tenant: Tenant, prefix: str) -> str:
    return event.replace("SOURCE", tenant.source_id).replace("D-", f"D-{prefix}-")


def _of_single(response: TestResponse) -> dict[str, Any]:
    if response.status_code >= 400:
        return _essence(error_of(response))
    assert response.json is not None
    return _essence({"status": response.json["status"], "event_id": response.json["event_id"]})


def _of_verdict(verdict: dict[str, Any]) -> dict[str, Any]:
    return _essence(verdict if verdict["status"] != "rejected" else verdict | {"status": None, "event_id": None})


def _essence(verdict: dict[str, Any]) -> dict[str, Any]:
    """What does not differ by chance: neither ids of ours nor those of requests."""
    names = ("status", "code", "message", "retryable", "details")
    event_id = verdict.get("event_id") or ""
    return {name: verdict.get(name) for name in names} | {
        "event_id": None if event_id[:4] in ("", "evt_") else event_id
    }


def _stored(context: Context, tenant: Tenant) -> list[tuple[Any, ...]]:
    return sorted(
        tuple(row)
        for row in rows(
            context,
            "SELECT CASE WHEN event_id LIKE 'evt_%' THEN '' ELSE event_id END, event_type, severity, payload::text,"
            " CASE WHEN occurred_at <> received_at THEN occurred_at::text ELSE '' END"
            " FROM events WHERE source_id = :id",
            id=tenant.source_row,
        )
    )
