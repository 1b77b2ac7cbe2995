"""What a large body counts as: it pays for its size before a parser sees it, whatever it came in."""

import gzip
import json
import time

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.context import Context
from tests.ingest.test_batch import NDJSON, send_batch, statuses_of
from tests.support.people import Tenant, events_of, limit_key
from tests.support.sending import error_of, event_for, send

_PACKED = {"Content-Encoding": "gzip"}


@pytest.fixture(autouse=True)
def _the_clock_stands(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    monkeypatch.setattr(context.rate_limiter, "_clock", lambda: now)


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_event_counts_as_one_for_each_4_kib(
    client: FlaskClient, context: Context, charlie: Tenant, *, is_packed: bool
) -> None:
    limit_key(context, charlie, 100)
    body = json.dumps(event_for(charlie, payload={"text": "x" * 40_000})).encode()

    for left in (90, 80):
        sent = gzip.compress(body) if is_packed else body
        response = send(client, charlie, sent, headers=_PACKED if is_packed else None)
        assert (response.status_code, _left(response)) == (201, left)
    assert _left(send(client, charlie)) == 79


def test_a_bomb_of_numbers_pays_for_what_it_expands_to(app: Flask, context: Context, charlie: Tenant) -> None:
    """Seven kilobytes were 1.2 million numbers, and counted as nineteen events."""
    limit_key(context, charlie, 1_500)
    client, numbers = app.test_client(), ",".join(["1e1"] * 65_000)
    event = f'{{"event_type": "a", "source_id": "{charlie.source_id}", "payload": {{"n": [{numbers}]}}}}'
    bomb = gzip.compress(f'{{"events": [{",".join([event] * 18)}]}}'.encode())

    responses = [send_batch(client, charlie, bomb, headers=_PACKED) for _ in range(2)]

    assert [response.status_code for response in responses] == [200, 429]
    assert 300 < _left(responses[0]) < 400
    assert _left(responses[1]) == _left(responses[0])


@pytest.mark.parametrize("body", [b'{"events": [' + b" " * 90_000, b'{"events": [' + b"[" * 90_000 + b"]"])
def test_a_batch_that_cannot_be_read_pays_for_its_size(
    app: Flask, context: Context, charlie: Tenant, body: bytes
) -> None:
    limit_key(context, charlie, 30)
    client = app.test_client()

    assert send_batch(client, charlie, gzip.compress(body), headers=_PACKED).status_code == 400
    assert _left(send_batch(client, charlie, [event_for(charlie)])) == 30 - 22 - 1


def test_a_batch_counts_as_its_events_or_its_size_whichever_is_more(
    app: Flask, context: Context, charlie: Tenant
) -> None:
    limit_key(context, charlie, 100)
    client = app.test_client()

    small = send_batch(client, charlie, [event_for(charlie)] * 40, content_type=NDJSON)
    large = send_batch(client, charlie, [event_for(charlie, payload={"text": "x" * 40_960})] * 3)

    assert (_left(small), _left(large)) == (60, 60 - 31)


def test_one_larger_than_the_quota_is_taken_when_nothing_of_it_is_used(
    client: FlaskClient, context: Context, charlie: Tenant
) -> None:
    limit_key(context, charlie, 5)
    event = event_for(charlie, payload={"text": "x" * 200_000})

    assert send(client, charlie, event).status_code == 201
    refused = send(client, charlie, event)

    assert (refused.status_code, error_of(refused)["code"]) == (429, "rate_limit_exceeded")
    assert len(events_of(context, charlie)) == 1


def test_a_batch_of_many_events_of_little_is_refused_as_a_whole_and_takes_nothing(
    app: Flask, context: Context, charlie: Tenant
) -> None:
    limit_key(context, charlie, 10)
    client = app.test_client()
    assert statuses_of(send_batch(client, charlie, [event_for(charlie)] * 6)) == ["stored"] * 6

    assert _left(send_batch(client, charlie, [event_for(charlie)] * 6)) == 4
    assert statuses_of(send_batch(client, charlie, [event_for(charlie)] * 4)) == ["stored"] * 4


def _left(response: TestResponse) -> int:
    return int(response.headers["RateLimit"].split(",")[0].split(";")[1].removeprefix("r="))
