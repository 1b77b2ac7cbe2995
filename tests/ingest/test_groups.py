"""Group commit: who goes together, who waits for whom, and what has an end."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from threading import Event, Semaphore
from typing import Any

import pytest
from msgspec import structs

from app.context import Context
from app.database.engine import TenantScope
from app.errors import OutcomeUnknown, Refusal, SchemaValidationFailed, StorageUnavailable
from app.identifiers import uuid7
from app.ingest.committer import Committer
from app.ingest.envelope import Attempt
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Outcome, Verdict
from tests.support.people import Tenant, events_of
from tests.support.scripted_connections import ScriptedConnections, attempt_of, identity_of, new_committer
from tests.support.waiting import wait_until


@pytest.fixture(name="committer")
def _committer(context: Context, connections: ScriptedConnections) -> Committer:
    return new_committer(context, connections)


def test_all_that_wait_go_with_one_commit(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    decisions: list[WriteResult] = []
    connections.open.clear()
    for _ in range(40):
        committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
    wait_until(lambda: connections.groups == 1)

    connections.open.set()
    wait_until(lambda: len(decisions) == 40)

    # The first may have gone ahead alone; it waited for no other.
    assert connections.groups <= 2
    assert {_outcome(decision) for decision in decisions} == {Outcome.STORED}
    assert len(events_of(context, alice)) == 40


def test_an_idle_process_writes_a_single_event_at_once(
    committer: Committer, connections: ScriptedConnections, alice: Tenant
) -> None:
    committer.store(identity_of(alice), attempt_of(alice))
    committer.store(identity_of(alice), attempt_of(alice))

    assert connections.groups == 2


def test_a_group_may_hold_events_of_many_workspaces(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    decisions = _decide_together(
        committer, connections, [(tenant, attempt_of(tenant)) for tenant in (alice, charlie) * 5]
    )

    assert {_outcome(decision) for decision in decisions} == {Outcome.STORED}
    assert (len(events_of(context, alice)), len(events_of(context, charlie))) == (5, 5)


def test_of_two_with_one_key_the_second_is_answered_from_the_first_ones_record(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    decisions = _decide_together(
        committer, connections, [(alice, attempt_of(alice, event_id="e", key="k")) for _ in range(5)]
    )

    assert sorted(map(_outcome, decisions)) == [Outcome.REPLAYED] * 4 + [Outcome.STORED]
    assert len(events_of(context, alice)) == 1


def test_of_two_with_one_event_id_the_first_is_stored(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    attempts = [attempt_of(alice, event_id="e", payload=f'{{"n": {n}}}') for n in (1, 1, 2)]
    decisions = _decide_together(committer, connections, [(alice, attempt) for attempt in attempts])

    assert sorted(map(_outcome, decisions)) == [Outcome.DUPLICATE, Outcome.DUPLICATE_EVENT, Outcome.STORED]
    assert [event.payload_text for event in events_of(context, alice)] == ['{"n": 1}']


def test_a_refused_attempt_leaves_its_key_free_for_the_same_attempt_behind_it(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    first = attempt_of(alice, event_id="e", payload='{"n": 1}')
    others = [attempt_of(alice, event_id="e", key="k", payload='{"n": 2}') for _ in range(2)]
    decisions = _decide_together(committer, connections, [(alice, attempt) for attempt in (first, *others)])

    assert sorted(map(_outcome, decisions)) == [Outcome.DUPLICATE_EVENT, Outcome.DUPLICATE_EVENT, Outcome.STORED]
    assert len(events_of(context, alice)) == 1


def test_a_value_that_postgresql_refuses_is_refused_alone(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    """The readers let none through that we know of; this one is made behind their back."""
    poison = attempt_of(alice)
    poison = structs.replace(poison, envelope=structs.replace(poison.envelope, payload=b'{"x": "\\u0000"}'))
    decisions = _decide_together(
        committer, connections, [(alice, attempt_of(alice)), (alice, poison), (alice, attempt_of(alice))]
    )

    refused = [decision for decision in decisions if isinstance(decision, Refusal)]
    assert len(refused) == 1
    assert isinstance(refused[0], SchemaValidationFailed)
    assert len(events_of(context, alice)) == 2


@pytest.mark.parametrize("claim", [{"event_id": "stuck"}, {"key": "stuck"}])
def test_a_claim_that_hangs_delays_only_those_who_need_it(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant, claim: dict[str, str]
) -> None:
    with suppress(_UndoError), context.database.transaction(TenantScope.ALL) as session:
        connection = session.connection().connection.dbapi_connection
        assert connection is not None
        _hold(connection, alice, claim)
        decisions: dict[str, WriteResult] = {}
        connections.open.clear()
        committer.submit(identity_of(alice), attempt_of(alice, **claim), partial(decisions.__setitem__, "stuck"))
        for n in range(5):
            committer.submit(identity_of(alice), attempt_of(alice), partial(decisions.__setitem__, f"free {n}"))
        connections.open.set()
        wait_until(lambda: len(decisions) == 5)

        assert {_outcome(decision) for decision in decisions.values()} == {Outcome.STORED}
        assert "stuck" not in decisions
        before = len(connections.exchanges)
        committer.submit(identity_of(alice), attempt_of(alice, **claim), partial(decisions.__setitem__, "again"))
        assert _outcome(committer.store(identity_of(alice), attempt_of(alice))) is Outcome.STORED
        # The next attempt with that claim went apart at once: no group was given up for it.
        assert not [each for each in connections.exchanges[before:] if each.thread == "committer" and each.has_waited]
        raise _UndoError
    wait_until(lambda: len(decisions) == 7)
    assert Outcome.STORED in {_outcome(decisions["stuck"]), _outcome(decisions["again"])}


def test_when_too_much_waits_the_next_is_refused_at_once_and_the_admitted_are_stored(
    connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    committer = new_committer(context, connections, queue_events_max=10)
    decisions: list[WriteResult] = []
    connections.open.clear()
    refused = 0
    for _ in range(1000):
        try:
            committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
        except StorageUnavailable:
            refused += 1
    connections.open.set()
    wait_until(lambda: len(decisions) == 1000 - refused)

    assert refused >= 900
    assert len(events_of(context, alice)) == 1000 - refused


def test_what_waits_is_bounded_in_bytes_too(connections: ScriptedConnections, context: Context, alice: Tenant) -> None:
    committer = new_committer(context, connections, queue_events_max=100_000)
    large = attempt_of(alice, payload='{"x": "' + "x" * 250_000 + '"}')
    connections.open.clear()

    def submit_1000() -> None:
        for _ in range(1000):
            committer.submit(identity_of(alice), large, lambda _: None)

    with pytest.raises(StorageUnavailable):
        submit_1000()


def test_an_attempt_that_waited_past_its_deadline_is_answered_then_and_never_stored(
    connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    committer = new_committer(context, connections, storage_deadline_seconds=0.3)
    connections.open.clear()
    decisions: list[WriteResult] = []
    committer.submit(identity_of(alice), attempt_of(alice, event_id="in-the-group"), decisions.append)
    wait_until(lambda: connections.groups == 1)
    committer.submit(identity_of(alice), attempt_of(alice, event_id="in-the-queue"), decisions.append)
    wait_until(lambda: len(decisions) == 2)

    assert [type(decision) for decision in decisions] == [OutcomeUnknown, StorageUnavailable]
    connections.open.set()
    later = attempt_of(alice, event_id="later")
    wait_until(lambda: _is_stored(committer, alice, later))
    assert "in-the-queue" not in {event.event_id for event in events_of(context, alice)}


def test_a_tick_that_does_not_end_keeps_no_attempt_from_its_result_at_the_deadline(
    connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    """Such as one that writes lines to a pipe without a reader."""
    ticks, reader = Semaphore(0), Event()

    def tick() -> None:
        ticks.release()
        reader.wait()

    committer = new_committer(context, connections, every_tick=tick, storage_deadline_seconds=0.3)
    decisions: list[WriteResult] = []
    connections.open.clear()
    try:
        committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
        ticks.acquire()
        committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
        wait_until(lambda: len(decisions) == 2)
        # The first may have been sent, and the second waits behind it.
        assert {type(decision) for decision in decisions} <= {StorageUnavailable, OutcomeUnknown}
    finally:
        reader.set()


def test_a_callback_that_fails_keeps_no_other_attempt_from_its_result(
    committer: Committer, connections: ScriptedConnections, alice: Tenant
) -> None:
    def fail(_: WriteResult) -> None:
        raise RuntimeError

    decisions: list[WriteResult] = []
    connections.open.clear()
    for settle in (decisions.append, fail, decisions.append):
        committer.submit(identity_of(alice), attempt_of(alice), settle)
    connections.open.set()
    wait_until(lambda: len(decisions) == 2)

    assert {_outcome(decision) for decision in decisions} == {Outcome.STORED}


def test_a_group_has_the_time_of_its_newest_attempt(
    committer: Committer, connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    """Or an attempt at the end of its time would take its neighbours along."""
    decisions: list[WriteResult] = []
    connections.open.clear()
    committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
    wait_until(lambda: connections.groups == 1)
    committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
    newest = time.monotonic()
    committer.submit(identity_of(alice), attempt_of(alice), decisions.append)
    connections.open.set()
    wait_until(lambda: len(decisions) == 3)

    assert connections.exchanges[-1].deadline >= newest + context.settings.storage_deadline_seconds


def _is_stored(committer: Committer, tenant: Tenant, attempt: Attempt) -> bool:
    """Whether one more try has stored it; a busy machine may need longer than the deadline."""
    with suppress(StorageUnavailable):
        committer.store(identity_of(tenant), attempt)
        return True
    return False


class _UndoError(Exception):
    """Ends a transaction without a commit."""


def _decide_together(
    committer: Committer, connections: ScriptedConnections, attempts: Sequence[tuple[Tenant, Attempt]]
) -> list[WriteResult]:
    """The decisions on `attempts` in one group, in the order in which they were made."""
    decisions: list[WriteResult] = []
    connections.open.clear()
    before = connections.groups
    # The first goes ahead and is held; the others gather behind it.
    first = attempts[0][0]
    committer.submit(identity_of(first), attempt_of(first, source_id="src_nobody"), lambda _: None)
    wait_until(lambda: connections.groups == before + 1)
    for tenant, attempt in attempts:
        committer.submit(identity_of(tenant), attempt, decisions.append)
    connections.open.set()
    wait_until(lambda: len(decisions) == len(attempts))
    return decisions


def _hold(connection: Any, tenant: Tenant, claim: dict[str, str]) -> None:
    """Claim in an open transaction what an attempt with `claim` needs; the claim goes when it is rolled back."""
    named = {
        "project": tenant.project_row,
        "source": tenant.source_row,
        "workspace": tenant.workspace_row,
        "uid": uuid7(),
    }
    if "key" in claim:
        connection.execute(
            "INSERT INTO idempotency_records VALUES (%(project)s, %(source)s, %(workspace)s, 'stuck', '', %(uid)s, 201,"
            " '', now(), now() + interval '1 hour'); ",
            named,
        )
    else:
        connection.execute(
            "INSERT INTO event_ledger VALUES (%(project)s, %(source)s, %(workspace)s, 'stuck', %(uid)s, '', now())",
            named,
        )


def _outcome(decision: WriteResult) -> Outcome:
    assert isinstance(decision, Verdict), decision
    return decision.outcome
