"""POST /v1/events/ingest: many at once, over several processes."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from itertools import count, repeat
from threading import Barrier, Event

import pytest

from app.context import Context
from tests.support.live import Answer, LiveServer, make_known, read
from tests.support.people import Tenant, events_of, rows
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_THREADS = 64

pytestmark = pytest.mark.wiring


def test_64_threads_on_4_processes_with_one_key_store_one_event_and_get_one_body(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    body = json.dumps(event_for(alice, event_id="e")).encode()

    answers = _all_at_once(live, alice, [(body, "k")] * _THREADS)

    assert {(answer.status, answer.body) for answer in answers} == {
        (201, b'{"accepted": true, "event_id": "e", "status": "stored"}')
    }
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len(events_of(context, alice)) == 1


def test_64_threads_with_one_event_id_and_no_key_store_one_event(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    body = json.dumps(event_for(alice, event_id="e")).encode()

    answers = _all_at_once(live, alice, [(body, None)] * _THREADS)

    assert Counter(answer.status for answer in answers) == {201: 1, 200: _THREADS - 1}
    assert len(events_of(context, alice)) == 1


def test_of_many_contents_under_one_key_one_wins_and_the_others_learn_it(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    bodies = [json.dumps(event_for(alice, payload={"n": n})).encode() for n in range(_THREADS)]

    answers = _all_at_once(live, alice, [(body, "k") for body in bodies])

    assert Counter(answer.status for answer in answers) == {201: 1, 422: _THREADS - 1}
    assert len(events_of(context, alice)) == 1


def test_many_keys_for_one_event_id_store_one_event_and_leave_a_record_each(
    live: LiveServer, context: Context, alice: Tenant
) -> None:
    body = json.dumps(event_for(alice, event_id="e")).encode()

    answers = _all_at_once(live, alice, [(body, f"k{n}") for n in range(_THREADS)])

    assert Counter(answer.status for answer in answers) == {201: 1, 200: _THREADS - 1}
    records = rows(context, "SELECT 1 FROM idempotency_records WHERE source_id = :id", id=alice.source_row)
    assert len(records) == _THREADS


@pytest.mark.slow
def test_2000_keys_raced_pairwise_store_2000_events(live: LiveServer, context: Context, alice: Tenant) -> None:
    work = [(json.dumps(event_for(alice, payload={"n": n})).encode(), f"k{n}") for n in range(2_000)]
    pairs = [item for item in work for _ in range(2)]

    with ThreadPoolExecutor(16) as pool:
        shares = list(pool.map(_send_in_turn, repeat(live), repeat(alice), [pairs[n::16] for n in range(16)]))

    assert Counter(answer.status for share in shares for answer in share) == {201: 4_000}
    assert len(events_of(context, alice)) == 2_000


def test_no_event_is_stored_after_a_revocation_has_answered(live: LiveServer, context: Context, alice: Tenant) -> None:
    """Senders run on four processes; whatever they get after the revocation is a 401, and the count stands still."""
    revoked = Event()

    def send_until_revoked(name: int) -> int:
        """The status of a request that began after the revocation had answered."""
        with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
            for n in count():
                is_after = revoked.is_set()
                body = json.dumps(event_for(alice, event_id=f"{name}-{n}")).encode()
                status = _post(connection, alice, body, None).status
                if is_after:
                    return status
        raise AssertionError

    with ThreadPoolExecutor(12) as pool:
        senders = [pool.submit(send_until_revoked, name) for name in range(12)]
        wait_until(lambda: len(events_of(context, alice)) >= 300, 60)
        revocation = live.request("POST", f"/v1/keys/{alice.key_id}/revoke", headers=alice.bearer)
        stored_when_answered = len(events_of(context, alice))
        revoked.set()
        statuses = [sender.result() for sender in senders]

    assert revocation.status == 200
    assert statuses == [401] * 12
    assert len(events_of(context, alice)) == stored_when_answered


def _all_at_once(live: LiveServer, tenant: Tenant, work: list[tuple[bytes, str | None]]) -> list[Answer]:
    """Every item from a thread and a connection of its own, started together."""
    make_known(live, tenant.key, workers=4)
    barrier = Barrier(len(work))

    def run(item: tuple[bytes, str | None]) -> Answer:
        with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
            connection.connect()
            barrier.wait()
            return _post(connection, tenant, *item)

    with ThreadPoolExecutor(len(work)) as pool:
        return list(pool.map(run, work))


def _send_in_turn(live: LiveServer, tenant: Tenant, work: list[tuple[bytes, str]]) -> list[Answer]:
    with closing(HTTPConnection("127.0.0.1", live.port, timeout=30)) as connection:
        return [_post(connection, tenant, *item) for item in work]


def _post(connection: HTTPConnection, tenant: Tenant, body: bytes, key: str | None) -> Answer:
    headers = {"Content-Type": "application/json", "X-API-Key": tenant.key}
    connection.request("POST", PATH, body, headers | ({"Idempotency-Key": key} if key else {}))
    return read(connection.getresponse())
