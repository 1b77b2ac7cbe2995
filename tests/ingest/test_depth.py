"""Ingest: whatever nests too deep is refused before any parser sees it, and its neighbours are stored."""

import gzip
import json
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.context import Context
from tests.ingest.test_batch import BATCH_PATH, NDJSON, body_of, send_batch, verdicts_of
from tests.support.live import LiveServer, read
from tests.support.people import Tenant, events_of
from tests.support.sending import PATH, error_of, event_for, pointers_of, send

# One too many; where Python's own limit is near; what ended processes of Python 3.13; and beyond all parsers.
_LEVELS = [33, 490, 1_000, 7_000, 9_990, 60_000]
_POINTER = "/payload/v" + "/0" * 31


def _deep(tenant: Tenant, levels: int) -> str:
    nest = "[" * (levels - 1) + "]" * (levels - 1)
    return f'{{"event_type": "a", "source_id": "{tenant.source_id}", "payload": {{"ä": "[[{{", "v": {nest}}}}}'


@pytest.mark.parametrize("levels", _LEVELS)
def test_an_event_that_nests_too_deep_is_a_422_that_says_where(
    client: FlaskClient, context: Context, alice: Tenant, levels: int
) -> None:
    response = send(client, alice, _deep(alice, levels))
    packed = send(client, alice, gzip.compress(_deep(alice, levels).encode()), headers={"Content-Encoding": "gzip"})

    assert (response.status_code, pointers_of(response)) == (422, {_POINTER})
    assert (packed.status_code, pointers_of(packed)) == (422, {_POINTER})
    assert events_of(context, alice) == []


def test_an_event_of_32_levels_is_stored(client: FlaskClient, alice: Tenant) -> None:
    assert send(client, alice, _deep(alice, 32)).status_code == 201


@pytest.mark.parametrize("levels", _LEVELS)
@pytest.mark.parametrize("form", ["application/json", NDJSON])
def test_in_a_batch_it_is_that_events_verdict_and_its_neighbours_are_stored(
    app: Flask, context: Context, alice: Tenant, form: str, levels: int
) -> None:
    client, good = app.test_client(), json.dumps(event_for(alice))

    verdicts = verdicts_of(send_batch(client, alice, [good, _deep(alice, levels), good], content_type=form))

    assert [it["status"] for it in verdicts] == ["stored", "rejected", "stored"]
    assert verdicts[1]["code"] == "schema_validation_failed"
    assert [it["pointer"] for it in verdicts[1]["details"]] == [_POINTER]
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (f'{{"events": [1], "x": {"[" * 9_990}{"]" * 9_990}}}', {"/x"}),
        (f'{{"évents": {"[" * 9_990}{"]" * 9_990}}}', {"/évents", "/events"}),
    ],
)
def test_a_deep_member_beside_the_events_is_named(app: Flask, alice: Tenant, body: str, pointers: set[str]) -> None:
    response = send_batch(app.test_client(), alice, body.encode())

    assert (response.status_code, pointers_of(response)) == (422, pointers)


def test_what_is_wrong_behind_a_deep_event_is_reported_with_its_position(app: Flask, alice: Tenant) -> None:
    body = body_of([_deep(alice, 500), "nul"], "application/json")

    response = send_batch(app.test_client(), alice, body)

    assert response.status_code == 400
    assert f"character {body.decode().index('nul')}" in error_of(response)["message"]


@pytest.fixture(name="connection")
def _connection(live: LiveServer) -> Iterator[HTTPConnection]:
    with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
        yield connection


@pytest.mark.parametrize("levels", [490, 1_000, 9_990])
def test_the_server_answers_it_with_the_one_error_body_and_lives(
    connection: HTTPConnection, alice: Tenant, levels: int
) -> None:
    headers = {"Content-Type": "application/json", "X-API-Key": alice.key, "X-Request-ID": "deep-1"}
    statuses = []
    for path, body in (
        (PATH, _deep(alice, levels).encode()),
        (BATCH_PATH, body_of([_deep(alice, levels), json.dumps(event_for(alice))], "application/json")),
        (PATH, json.dumps(event_for(alice)).encode()),
    ):
        connection.request("POST", path, body, headers)
        answer = read(connection.getresponse())
        statuses.append(answer.status)
        if answer.status == 422:
            assert json.loads(answer.body)["error"]["request_id"] == "deep-1"

    assert statuses == [422, 200, 201]
