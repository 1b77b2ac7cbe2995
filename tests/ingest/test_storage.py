"""The one statement, and the barrier around it, seen from two sessions that meet at a chosen moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from msgspec import structs
from sqlalchemy.orm import Session

from app.context import Context
from app.credentials import Identity
from app.database import EVERYWHERE
from app.exact_json import read_object
from app.identifiers import uuid7
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import Outcome, Verdict, store
from app.locks import exclude_workspace
from tests.people import Tenant, events_of, rows
from tests.servers import OUR_LOCKS
from tests.waiting import wait_until

_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

pytestmark = pytest.mark.wiring


def test_a_right_is_not_taken_away_before_every_ingest_that_may_not_have_seen_it_has_ended(
    house: Context, alice: Tenant
) -> None:
    def revoke() -> int:
        with house.database.transaction(EVERYWHERE) as session:
            exclude_workspace(session, alice.workspace_row)
        return len(events_of(house, alice))

    with ThreadPoolExecutor(1) as pool:
        with house.database.transaction(EVERYWHERE) as session:
            assert _store(session, alice, _attempt(alice))[0].outcome is Outcome.STORED
            revocation = pool.submit(revoke)
            wait_until(lambda: rows(house, _WAITING_FOR_ADVISORY_LOCK))
            assert not revocation.done()
        stored_when_answered = revocation.result()

    assert stored_when_answered == 1


def test_an_ingest_that_meets_a_revocation_waits_and_then_sees_it(house: Context, alice: Tenant) -> None:
    def ingest() -> Outcome:
        with house.database.transaction(EVERYWHERE) as session:
            return _store(session, alice, _attempt(alice))[0].outcome

    with ThreadPoolExecutor(1) as pool:
        with house.database.transaction(EVERYWHERE) as session:
            exclude_workspace(session, alice.workspace_row)
            session.connection().exec_driver_sql(
                "UPDATE source_keys SET revoked_at = %s WHERE id = %s", (_NOW, alice.key_row)
            )
            waiting = pool.submit(ingest)
            wait_until(lambda: rows(house, _WAITING_FOR_ADVISORY_LOCK))
        assert waiting.result() is Outcome.INVALID_SOURCE_KEY


def test_a_workspace_under_change_holds_up_no_other_workspace(house: Context, alice: Tenant, charlie: Tenant) -> None:
    with house.database.transaction(EVERYWHERE) as session:
        exclude_workspace(session, alice.workspace_row)
        with house.database.transaction(EVERYWHERE) as other:
            assert _store(other, charlie, _attempt(charlie))[0].outcome is Outcome.STORED


@pytest.mark.parametrize("claim", [{"event_id": "e"}, {"key": "k"}])
def test_whoever_loses_a_race_for_a_claim_is_told_how_it_ended_and_writes_nothing(
    house: Context, alice: Tenant, claim: dict[str, str]
) -> None:
    def lose() -> Outcome:
        with house.database.transaction(EVERYWHERE) as session:
            return _store(session, alice, _attempt(alice, **claim))[0].outcome

    with ThreadPoolExecutor(1) as pool:
        with house.database.transaction(EVERYWHERE) as session:
            assert _store(session, alice, _attempt(alice, **claim))[0].outcome is Outcome.STORED
            loser = pool.submit(lose)
            wait_until(lambda: rows(house, _WAITING_FOR_A_ROW))
        assert loser.result() is (Outcome.REPLAYED if "key" in claim else Outcome.DUPLICATE)
    assert len(events_of(house, alice)) == 1


def test_a_group_gets_a_verdict_for_each_attempt_in_order(house: Context, alice: Tenant) -> None:
    with house.database.transaction(EVERYWHERE) as session:
        _store(session, alice, _attempt(alice, event_id="known"))
    group = [
        _attempt(alice, event_id="z", key="kz"),
        _attempt(alice, source_id="src_other"),
        _attempt(alice, event_id="known"),
        _attempt(alice, event_id="a", key="ka"),
        _attempt(alice, event_id="known", payload='{"n": 2}'),
    ]

    with house.database.transaction(EVERYWHERE) as session:
        verdicts = _store(session, alice, *group)

    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.STORED,
        Outcome.SOURCE_MISMATCH,
        Outcome.DUPLICATE,
        Outcome.STORED,
        Outcome.DUPLICATE_EVENT,
    ]
    assert {event.event_id for event in events_of(house, alice)} == {"known", "z", "a"}


def test_an_event_without_a_partition_of_its_day_is_stored_all_the_same(house: Context, alice: Tenant) -> None:
    with house.database.transaction(EVERYWHERE) as session:
        _store(session, alice, structs.replace(_attempt(alice), received_at=datetime(2001, 1, 1, tzinfo=UTC)))

    partition = rows(
        house,
        "SELECT tableoid::regclass::text AS name FROM events WHERE source_id = :id",
        id=alice.source_row,
    )
    assert [row.name for row in partition] == ["events_default"]


_WAITING_FOR_ADVISORY_LOCK = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted"
_WAITING_FOR_A_ROW = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'transactionid' AND NOT granted"


def _attempt(
    tenant: Tenant,
    *,
    event_id: str | None = None,
    key: str | None = None,
    source_id: str | None = None,
    payload: str = "{}",
) -> Attempt:
    named = f'"event_id": "{event_id}", ' if event_id else ""
    source = source_id or tenant.source_id
    body = f'{{{named}"event_type": "a", "source_id": "{source}", "payload": {payload}}}'
    envelope = read_envelope(read_object(body.encode()))
    return Attempt(envelope=envelope, idempotency_key=key, received_at=_NOW, event_uid=uuid7())


def _store(session: Session, tenant: Tenant, *attempts: Attempt) -> list[Verdict]:
    return store(
        lambda statement, parameters: session.connection().exec_driver_sql(statement, tuple(parameters)).all(),
        [(Identity(tenant.key_id, tenant.key_row, tenant.workspace_row), attempt) for attempt in attempts],
        idempotency_ttl_seconds=3600,
        lock_wait_seconds=5,
    )
