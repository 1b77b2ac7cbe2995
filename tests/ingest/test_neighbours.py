"""What one workspace makes wait, hold or fill costs another one nothing but a moment that is bounded."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import psycopg
import pytest

from app.config import Settings
from app.context import Context
from app.database.advisory_locks import workspace_lock
from app.errors import IdempotencyInProgress, StorageUnavailable
from app.ingest import contention
from app.ingest.committer import Committer
from app.ingest.envelope import Attempt
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Outcome, Verdict
from tests.support.people import Tenant, events_of
from tests.support.scripted_connections import ScriptedConnections, attempt_of, identity_of, new_committer
from tests.support.waiting import wait_until

_BOUND_SECONDS = 0.15
_ROUNDS = 3
# Where it is not the point when something comes to its end, a busy machine has the time that it takes.
_PATIENT: dict[str, Any] = {"storage_deadline_seconds": 15.0, "idempotency_wait_seconds": 5.0}
# Of those that are held, how many come after the first group.
_NEXT = 5


@pytest.fixture(name="committer")
def _committer(context: Context, connections: ScriptedConnections) -> Committer:
    return new_committer(context, connections, **_PATIENT)


@contextmanager
def _barrier_held(settings: Settings, tenant: Tenant, _: list[str]) -> Iterator[Any]:
    """As a change of the workspace holds it that does not come to its end."""
    with psycopg.connect(settings.admin_database_url) as session:
        session.execute("SELECT pg_advisory_xact_lock(%s)", [workspace_lock(tenant.workspace_row)])
        yield session
        session.rollback()


@contextmanager
def _event_ids_held(settings: Settings, tenant: Tenant, event_ids: list[str]) -> Iterator[Any]:
    with psycopg.connect(settings.admin_database_url) as session:
        session.cursor().executemany(
            "INSERT INTO event_ledger VALUES (%s, %s, %s, %s, gen_random_uuid(), '', now())",
            [(tenant.project_row, tenant.source_row, tenant.workspace_row, event_id) for event_id in event_ids],
        )
        yield session
        session.rollback()


@contextmanager
def _keys_held(settings: Settings, tenant: Tenant, keys: list[str]) -> Iterator[Any]:
    with psycopg.connect(settings.admin_database_url) as session:
        session.cursor().executemany(
            "INSERT INTO idempotency_records VALUES (%s, %s, %s, %s, '', gen_random_uuid(), 201, '', now(),"
            " now() + interval '1 hour')",
            [(tenant.project_row, tenant.source_row, tenant.workspace_row, key) for key in keys],
        )
        yield session
        session.rollback()


_HOLD: dict[str, Callable[[Settings, Tenant, list[str]], AbstractContextManager[Any]]] = {
    "barrier": _barrier_held,
    "event ids": _event_ids_held,
    "keys": _keys_held,
}


@pytest.mark.parametrize("held", [1, 60, 200])
@pytest.mark.parametrize("what", _HOLD)
def test_held_attempts_of_one_workspace_delay_another_one_s_by_less_than_150_ms(
    context: Context, settings: Settings, alice: Tenant, charlie: Tenant, what: str, held: int
) -> None:
    """Measured twice: by what the committer waited for locks, which no busy machine changes, and by the clock.

    By the clock the best of three rounds counts, each with a committer that knows nothing yet.
    """
    rounds: list[float] = []
    for number in range(_ROUNDS):
        names = [f"{number}-{n}" for n in range(held + _NEXT)]
        with _HOLD[what](settings, alice, names):
            neighbours = _Neighbours(context, alice, charlie)
            rounds.append(neighbours.worst_wait_beside([_held_attempt(alice, what, name) for name in names]))
        assert neighbours.waited_for_locks() < _BOUND_SECONDS
        wait_until(neighbours.are_all_answered)
    assert min(rounds) < _BOUND_SECONDS


class _Neighbours:
    """One workspace whose attempts are held, and another one that goes on sending."""

    def __init__(self, context: Context, alice: Tenant, charlie: Tenant) -> None:
        self._connections = ScriptedConnections(context.database)
        self._committer = new_committer(context, self._connections, **_PATIENT)
        self._alice, self._charlie = identity_of(alice), charlie
        self._sent = 0
        self._answers: list[WriteResult] = []
        self._most_waited = 0.0

    def worst_wait_beside(self, held: list[Attempt]) -> float:
        """Charlie's worst wait, in seconds: in one group with nearly all that are held, then beside the rest."""
        # A connection is opened and its statement planned before anything is held up.
        self._committer.store(identity_of(self._charlie), attempt_of(self._charlie))
        self._connections.exchanges.clear()
        self._connections.open.clear()
        self._committer.submit(self._alice, held[0], self._answers.append)
        wait_until(lambda: self._connections.exchanges)
        for attempt in held[1:-_NEXT]:
            self._committer.submit(self._alice, attempt, self._answers.append)
        waits = [self._store(before=self._connections.open.set)]
        for attempt in held[-_NEXT:]:
            self._committer.submit(self._alice, attempt, self._answers.append)
            waits.append(self._store())
        self._sent = len(held)
        return max(waits)

    def waited_for_locks(self) -> float:
        """The most that any of Charlie's waited for groups that were given up for a lock."""
        return self._most_waited

    def are_all_answered(self) -> bool:
        return len(self._answers) == self._sent

    def _store(self, before: Callable[[], object] = lambda: None) -> float:
        results: list[WriteResult] = []
        first = max(0, len(self._connections.exchanges) - 1)
        began = time.monotonic()
        self._committer.submit(
            identity_of(self._charlie),
            attempt_of(self._charlie),
            lambda result: results.extend((result, time.monotonic() - began)),  # type: ignore[arg-type]
        )
        before()
        wait_until(lambda: len(results) == 2, pause_seconds=0.001)
        assert isinstance(results[0], Verdict)
        assert results[0].outcome is Outcome.STORED
        given_up = [
            each for each in self._connections.exchanges[first:] if each.thread == "committer" and each.has_waited
        ]
        self._most_waited = max(self._most_waited, sum(each.lock_wait_seconds for each in given_up))
        return results[1]  # type: ignore[return-value]


def _held_attempt(tenant: Tenant, what: str, name: str) -> Attempt:
    return attempt_of(tenant, event_id=name if what == "event ids" else None, key=name if what == "keys" else None)


def test_attempts_of_a_workspace_that_is_being_changed_are_stored_when_the_change_is_made(
    context: Context, settings: Settings, connections: ScriptedConnections, alice: Tenant
) -> None:
    committer = new_committer(context, connections, **_PATIENT)
    results: list[WriteResult] = []
    with _barrier_held(settings, alice, []):
        for _ in range(100):
            committer.submit(identity_of(alice), attempt_of(alice), results.append)
        committer.submit(identity_of(alice), attempt_of(alice), results.append)
        assert results == []
    wait_until(lambda: len(results) == 101)

    assert {_outcome(result) for result in results} == {Outcome.STORED}
    assert len(events_of(context, alice)) == 101


@pytest.mark.parametrize("what", ["event ids", "keys"])
def test_what_another_transaction_holds_is_in_progress_and_the_rest_of_its_workspace_is_stored(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant, what: str
) -> None:
    committer = new_committer(context, connections, **_PATIENT | {"idempotency_wait_seconds": 1.0})
    held: list[WriteResult] = []
    free: list[WriteResult] = []
    names = [f"{n}" for n in range(5)]
    with _HOLD[what](settings, alice, names):
        for name in names:
            committer.submit(identity_of(alice), _held_attempt(alice, what, name), held.append)
            for _ in range(20):
                committer.submit(identity_of(alice), attempt_of(alice), free.append)
        wait_until(lambda: len(free) == 100)
        wait_until(lambda: len(held) == 5)

    assert {_outcome(result) for result in free} == {Outcome.STORED}
    assert {type(result) for result in held} == {IdempotencyInProgress}


@pytest.mark.parametrize("what", ["event ids", "keys"])
def test_what_another_transaction_held_and_gave_up_is_stored_at_once(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant, what: str
) -> None:
    committer = new_committer(context, connections, **_PATIENT)
    results: list[WriteResult] = []
    names = [f"{n}" for n in range(20)]
    with _HOLD[what](settings, alice, names):
        for name in names:
            committer.submit(identity_of(alice), _held_attempt(alice, what, name), results.append)
        wait_until(lambda: alice.workspace_row in committer._contention._contended_until)  # noqa: SLF001
        assert results == []
    wait_until(lambda: len(results) == 20)

    assert {_outcome(result) for result in results} == {Outcome.STORED}


def test_a_table_that_is_locked_is_remembered_against_no_workspace_and_its_waiters_are_stored_when_it_is_free(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant, charlie: Tenant
) -> None:
    committer = new_committer(context, connections, **_PATIENT)
    results: list[WriteResult] = []
    with psycopg.connect(settings.admin_database_url) as session:
        session.execute("LOCK TABLE event_ledger IN ACCESS EXCLUSIVE MODE")
        for tenant in (alice, charlie) * 20:
            committer.submit(identity_of(tenant), attempt_of(tenant), results.append)
        wait_until(lambda: sum(each.has_waited for each in connections.exchanges) >= 3)
        session.rollback()
    wait_until(lambda: len(results) == 40)

    assert {_outcome(result) for result in results} == {Outcome.STORED}
    assert committer._contention._contended_until == {}  # noqa: SLF001
    assert {each.thread for each in connections.exchanges} == {"committer"}


def test_a_table_that_stays_locked_is_503_at_the_deadline(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant
) -> None:
    committer = new_committer(context, connections, storage_deadline_seconds=0.3)
    with psycopg.connect(settings.admin_database_url) as session:
        session.execute("LOCK TABLE event_ledger IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StorageUnavailable):
            committer.store(identity_of(alice), attempt_of(alice))
        session.rollback()

    assert committer._contention._contended_until == {}  # noqa: SLF001


@pytest.mark.parametrize("payload", ["{}", '{"x": "' + "x" * 200_000 + '"}'], ids=["events", "bytes"])
def test_a_workspace_that_fills_its_share_of_the_queue_leaves_the_rest_to_others(
    context: Context, connections: ScriptedConnections, alice: Tenant, charlie: Tenant, payload: str
) -> None:
    committer = new_committer(context, connections, queue_events_max=300, **_PATIENT)
    connections.open.clear()
    attempt = attempt_of(alice, payload=payload)
    refused = 0
    for _ in range(600):
        try:
            committer.submit(identity_of(alice), attempt, lambda _: None)
        except StorageUnavailable:
            refused += 1
    results: list[WriteResult] = []
    for _ in range(20):
        committer.submit(identity_of(charlie), attempt_of(charlie), results.append)

    assert refused >= 300
    connections.open.set()
    wait_until(lambda: len(results) == 20)
    assert {_outcome(result) for result in results} == {Outcome.STORED}


def test_many_with_one_idempotency_key_count_as_waiting_all_the_while(
    context: Context, connections: ScriptedConnections, alice: Tenant
) -> None:
    """They are not for one group, so they are gathered and put back: that is no way round the bound."""
    committer = new_committer(context, connections, queue_events_max=10)
    connections.open.clear()
    admitted = 0
    for _ in range(5):
        for _ in range(20):
            try:
                committer.submit(identity_of(alice), attempt_of(alice, key="k"), lambda _: None)
                admitted += 1
            except StorageUnavailable:
                pass
        before = len(connections.exchanges)
        connections.open.set()
        wait_until(partial(_has_more, connections, before))
        connections.open.clear()

    assert admitted <= 5 * 10


def test_workspaces_take_turns_in_a_group(
    committer: Committer, connections: ScriptedConnections, alice: Tenant, charlie: Tenant
) -> None:
    """Or one that waits behind a thousand of another's waits for four groups."""
    order: list[str] = []
    connections.open.clear()
    committer.submit(identity_of(alice), attempt_of(alice), lambda _: None)
    wait_until(lambda: connections.exchanges)
    for _ in range(400):
        committer.submit(identity_of(alice), attempt_of(alice), lambda _: order.append("alice"))
    committer.submit(identity_of(charlie), attempt_of(charlie), lambda _: order.append("charlie"))
    connections.open.set()
    wait_until(lambda: len(order) == 401)

    assert order.index("charlie") < 256


def test_a_workspace_that_fills_its_share_of_the_contention_queue_leaves_the_rest_to_others(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant, charlie: Tenant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(contention, "_EVENTS_MAX", 40)
    committer = new_committer(context, connections, **_PATIENT)
    results: dict[str, list[WriteResult]] = {"alice": [], "charlie": []}
    with _barrier_held(settings, alice, []), _barrier_held(settings, charlie, []):
        for _ in range(60):
            committer.submit(identity_of(alice), attempt_of(alice), results["alice"].append)
        wait_until(lambda: len(results["alice"]) == 40)
        assert {type(result) for result in results["alice"]} == {StorageUnavailable}
        for _ in range(5):
            committer.submit(identity_of(charlie), attempt_of(charlie), results["charlie"].append)
    wait_until(lambda: len(results["charlie"]) == 5)

    assert {_outcome(result) for result in results["charlie"]} == {Outcome.STORED}


def test_more_workspaces_in_trouble_than_there_are_threads_all_get_their_turn(
    settings: Settings, context: Context, connections: ScriptedConnections, tenant: Callable[[], Tenant]
) -> None:
    committer = new_committer(context, connections, **_PATIENT)
    troubled = [tenant() for _ in range(contention._THREADS + 1)]  # noqa: SLF001
    free: list[WriteResult] = []
    held: list[WriteResult] = []
    with ExitStack() as holding:
        for each in troubled:
            holding.enter_context(_event_ids_held(settings, each, ["e"]))
        for each in troubled:
            committer.submit(identity_of(each), attempt_of(each, event_id="e"), held.append)
        for _ in range(10):
            for each in troubled:
                committer.submit(identity_of(each), attempt_of(each), free.append)
        wait_until(lambda: len(free) == 10 * len(troubled))
        assert held == []

    assert {_outcome(result) for result in free} == {Outcome.STORED}


def _has_more(connections: ScriptedConnections, before: int) -> bool:
    return len(connections.exchanges) > before


def _outcome(result: WriteResult) -> Outcome:
    assert isinstance(result, Verdict), result
    return result.outcome
