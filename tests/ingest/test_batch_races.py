"""POST /v1/events/ingest/batch: many at once, over several processes."""

import json
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from itertools import count
from threading import Barrier, Event
from typing import Any

import pytest

from app.context import Context
from tests.ingest.test_batch import BATCH_PATH, body_of
from tests.ingest.test_batch_replaying import expire_records
from tests.support.live import Answer, LiveServer, make_known, read
from tests.support.people import Tenant, events_of, rows
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_THREADS = 24

pytestmark = pytest.mark.wiring

Request = tuple[str, bytes, str | None]
"""Path, body and Idempotency-Key."""


def _batch(events: Sequence[Any], key: str | None = None) -> Request:
    return BATCH_PATH, body_of(events), key


def test_one_key_from_many_threads_stores_the_batch_once_and_gives_all_one_answer(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    answers = _all_at_once(live, alice, [_batch([event_for(alice) for _ in range(20)], "k")] * _THREADS)

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(events_of(context, alice)) == 20


def test_an_expired_key_from_many_threads_is_used_anew_once(live: LiveServer, context: Context, alice: Tenant) -> None:
    assert _all_at_once(live, alice, [_batch([event_for(alice)], "k")])[0].status == 200
    expire_records(context, alice)

    answers = _all_at_once(live, alice, [_batch([event_for(alice, payload={})], "k")] * _THREADS)

    assert len({answer.body for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(events_of(context, alice)) == 2


def test_of_many_batches_under_one_key_one_wins_and_the_others_learn_it(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    work = [_batch([event_for(alice, payload={"n": n})] * 5, "k") for n in range(_THREADS)]
    single = (PATH, json.dumps(event_for(alice)).encode(), "k")

    answers = _all_at_once(live, alice, [*work, *[single] * 4])

    statuses = Counter(answer.status for answer in answers)
    assert statuses in ({200: 1, 422: _THREADS + 3}, {201: 4, 422: _THREADS})
    assert len(events_of(context, alice)) == (5 if 200 in statuses else 1)


def test_batches_with_the_same_events_in_opposite_order_store_each_once_and_wait_in_no_circle(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    events = [event_for(alice, event_id=f"e{n}") for n in range(200)]

    answers = _all_at_once(live, alice, [_batch(events), _batch(events[::-1])] * (_THREADS // 2))

    assert {answer.status for answer in answers} == {200}
    totals = [json.loads(answer.body)["totals"] for answer in answers]
    assert (sum(it["stored"] for it in totals), sum(it["rejected"] for it in totals)) == (200, 0)
    assert len(events_of(context, alice)) == 200


def test_batches_and_single_requests_with_the_same_events_store_each_once(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    events = [event_for(alice, event_id=f"e{n}") for n in range(16)]
    singles = [(PATH, json.dumps(event).encode(), None) for event in events]

    answers = _all_at_once(live, alice, [*singles, *[_batch(events), _batch(events[::-1])] * 8])

    assert {answer.status for answer in answers} <= {200, 201}
    stored = sum(answer.status == 201 for answer in answers)
    stored += sum(json.loads(answer.body)["totals"]["stored"] for answer in answers[16:])
    assert stored == len(events_of(context, alice)) == 16


def test_an_atomic_race_for_one_event_id_has_one_winner(live: LiveServer, context: Context, alice: Tenant) -> None:
    """Each batch has an event of its own and one that all want with a content of their own."""
    path = f"{BATCH_PATH}?atomic=true"
    batches = [[event_for(alice), event_for(alice, event_id="e", payload={"n": n})] for n in range(_THREADS)]

    answers = _all_at_once(live, alice, [(path, body_of(events), None) for events in batches])

    assert Counter(answer.status for answer in answers) == {200: 1, 422: _THREADS - 1}
    assert len(events_of(context, alice)) == 2
    assert len(rows(context, "SELECT 1 FROM event_ledger WHERE source_id = :id", id=alice.source_row)) == 2


def test_nothing_of_a_batch_is_stored_after_a_revocation_has_answered(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    """Senders run on four processes; whatever they get after the revocation is a 401, and the count stands still."""
    revoked = Event()

    def send_until_revoked(name: int) -> int:
        """The status of a batch that began after the revocation had answered."""
        with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
            for n in count():
                is_after = revoked.is_set()
                events = [event_for(alice, event_id=f"{name}-{n}-{m}") for m in range(25)]
                status = _post(connection, alice, _batch(events)).status
                if is_after:
                    return status
        raise AssertionError

    with ThreadPoolExecutor(8) as pool:
        senders = [pool.submit(send_until_revoked, name) for name in range(8)]
        wait_until(lambda: len(events_of(context, alice)) >= 500, 60)
        revocation = live.request("POST", f"/v1/keys/{alice.key_id}/revoke", headers=alice.bearer)
        stored_when_answered = len(events_of(context, alice))
        revoked.set()
        statuses = [sender.result() for sender in senders]

    assert (revocation.status, statuses) == (200, [401] * 8)
    assert len(events_of(context, alice)) == stored_when_answered
    assert stored_when_answered % 25 == 0


def _all_at_once(live: LiveServer, tenant: Tenant, work: Sequence[Request]) -> list[Answer]:
    """Every request from a thread and a connection of its own, started together."""
    make_known(live, tenant.key, workers=4)
    barrier = Barrier(len(work))

    def run(request: Request) -> Answer:
        with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
            connection.connect()
            barrier.wait()
            return _post(connection, tenant, request)

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def _post(connection: HTTPConnection, tenant: Tenant, request: Request) -> Answer:
    path, body, key = request
    headers = {"Content-Type": "application/json", "X-API-Key": tenant.key}
    connection.request("POST", path, body, headers | ({"Idempotency-Key": key} if key else {}))
    return read(connection.getresponse())
