"""An attempt whose commit went unanswered is answered with its outcome, or that it is unknown: on every way out."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest
from flask import Flask
from psycopg.errors import InternalError, LockNotAvailable

from app import errors
from app.config import Settings
from app.context import Context
from app.database.engine import Database
from app.errors import IdempotencyInProgress, OutcomeUnknown, Refusal, SchemaValidationFailed, StorageUnavailable
from app.ingest import contention
from app.ingest.batch import transaction as batches
from app.ingest.committer import Committer
from app.ingest.envelope import Receipt
from app.ingest.pending_write import PendingWrite, WriteResult, refuse_unsent
from app.ingest.storage import Outcome, Verdict
from app.ingest.verdicts import REFUSALS
from tests.ingest.test_batch import send_batch
from tests.support.databases import close
from tests.support.lossy_commits import LossyCommits
from tests.support.people import Tenant, events_of
from tests.support.scripted_connections import Run, ScriptedConnections, attempt_of, identity_of, new_committer
from tests.support.sending import error_of, event_for
from tests.support.waiting import wait_until

_REFUSALS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, Refusal) and value != Refusal
]
_NOT_THE_OUTCOME = [*(each for each in _REFUSALS if each is not SchemaValidationFailed), RuntimeError, psycopg.Error]


class TestOne:
    """The rule itself, where every result goes through."""

    @pytest.mark.parametrize("said", _NOT_THE_OUTCOME)
    def test_hears_of_no_error_but_that_its_outcome_is_unknown(self, alice: Tenant, said: type[Exception]) -> None:
        write, results = _pending(alice)
        assert write.begin_try()
        write.end_try(is_answered=False)

        write.resolve(said())

        assert [type(result) for result in results] == [OutcomeUnknown]

    @pytest.mark.parametrize("said", _NOT_THE_OUTCOME)
    def test_that_was_answered_hears_what_is_said(self, alice: Tenant, said: type[Exception]) -> None:
        write, results = _pending(alice)
        assert write.begin_try()
        write.end_try(is_answered=True)

        write.resolve(said())

        assert [type(result) for result in results] == [said]

    @pytest.mark.parametrize("outcome", [each for each in Outcome if each not in {Outcome.HELD, Outcome.RACED}])
    def test_hears_its_outcome(self, alice: Tenant, outcome: Outcome) -> None:
        """Not what is so by the clock: it may be so only since, while the first try was still being committed."""
        write, results = _pending(alice)
        write.begin_try()
        write.end_try(is_answered=False)
        write.begin_try()

        write.resolve(verdict := Verdict(outcome, Receipt(201, "")))

        if outcome in {Outcome.INVALID_SOURCE_KEY, Outcome.TIMESTAMP_OUT_OF_RANGE}:
            assert [type(result) for result in results] == [OutcomeUnknown]
        else:
            assert results == [verdict]

    def test_what_postgresql_cannot_keep_it_has_not_kept(self, alice: Tenant) -> None:
        write, results = _pending(alice)
        write.begin_try()
        write.end_try(is_answered=False)

        write.resolve(refusal := SchemaValidationFailed())

        assert results == [refusal]

    def test_at_its_deadline_it_is_unknown_while_postgresql_works_on_it_and_for_ever_after_an_unanswered_try(
        self, alice: Tenant
    ) -> None:
        waiting, tried, under_way, unanswered = (_pending(alice) for _ in range(4))
        tried[0].begin_try()
        tried[0].end_try(is_answered=True)
        under_way[0].begin_try()
        unanswered[0].begin_try()
        unanswered[0].end_try(is_answered=False)
        unanswered[0].begin_try()
        unanswered[0].end_try(is_answered=True)

        for write, _ in (waiting, tried, under_way, unanswered):
            write.expire()

        seen = [type(results[0]) for _, results in (waiting, tried, under_way, unanswered)]
        assert seen == [StorageUnavailable, StorageUnavailable, OutcomeUnknown, OutcomeUnknown]

    def test_at_its_deadline_it_is_unknown_also_if_its_try_ends_unanswered_in_this_moment(self, alice: Tenant) -> None:
        results: list[WriteResult] = []
        write = _EndsUnanswered(identity_of(alice), attempt_of(alice), time.monotonic() + 10, results.append)
        write.begin_try()

        write.expire()

        assert [type(result) for result in results] == [OutcomeUnknown]

    def test_one_that_is_resolved_is_never_sent_again(self, alice: Tenant) -> None:
        write, _ = _pending(alice)
        write.expire()

        assert not write.begin_try()

    def test_only_those_that_were_never_heard_of_are_refused(self, alice: Tenant) -> None:
        fresh, unanswered = _pending(alice), _pending(alice)
        unanswered[0].begin_try()
        unanswered[0].end_try(is_answered=False)

        assert refuse_unsent([fresh[0], unanswered[0]], StorageUnavailable()) == [unanswered[0]]
        assert (len(fresh[1]), len(unanswered[1])) == (1, 0)


class _EndsUnanswered(PendingWrite):
    """Its try ends on the committer's thread while the time keeper looks at one of its marks, whichever is first."""

    _under_way = unanswered = False

    @property
    def _is_under_way(self) -> bool:
        before, self._under_way, self.unanswered = self._under_way, False, self._under_way or self.unanswered
        return before

    @_is_under_way.setter
    def _is_under_way(self, value: bool) -> None:
        self._under_way = value

    @property
    def _is_unanswered(self) -> bool:
        before, self._under_way, self.unanswered = self.unanswered, False, self._under_way or self.unanswered
        return before

    @_is_unanswered.setter
    def _is_unanswered(self, value: bool) -> None:
        self.unanswered = value


def _raise(error: Exception) -> Callable[[Run], list[Any]]:
    def script(_: Run) -> list[Any]:
        raise error

    return script


# What becomes of every try after the one whose commit went unanswered.
_THEN: dict[str, Callable[[Run], list[Any]]] = {
    "the server is away": _raise(StorageUnavailable()),
    "each commit goes unanswered": _raise(OutcomeUnknown()),
    "a claim is held": _raise(LockNotAvailable()),
    "a fault of PostgreSQL's": _raise(InternalError()),
    "a fault of ours": _raise(RuntimeError()),
}


@pytest.mark.parametrize("is_place_free", [True, False], ids=["", "and no place is free"])
@pytest.mark.parametrize("then", _THEN)
def test_through_the_committer_no_way_out_says_that_nothing_was_stored(
    connections: ScriptedConnections,
    context: Context,
    alice: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    then: str,
    is_place_free: bool,  # noqa: FBT001
) -> None:
    if not is_place_free:
        monkeypatch.setattr(contention, "_EVENTS_MAX", 0)
    connections.script = _commit_unanswered(connections, _THEN[then])
    committer = new_committer(context, connections, storage_deadline_seconds=0.5, idempotency_wait_seconds=0.2)

    with pytest.raises(OutcomeUnknown):
        committer.store(identity_of(alice), attempt_of(alice))

    assert len(events_of(context, alice)) == 1


def test_through_the_committer_an_unanswered_one_that_can_be_asked_about_is_stored_once(
    connections: ScriptedConnections, context: Context, alice: Tenant
) -> None:
    connections.script = _commit_unanswered(connections, lambda run: run())

    verdict = new_committer(context, connections).store(identity_of(alice), attempt_of(alice))

    assert verdict.outcome is Outcome.RESUMED
    assert len(events_of(context, alice)) == 1


def test_one_unanswered_among_others_is_the_only_unknown_one(
    connections: ScriptedConnections, context: Context, alice: Tenant, charlie: Tenant
) -> None:
    """It goes on in one group with others that were never sent, and the server is away by then."""
    committer = new_committer(context, connections, storage_deadline_seconds=0.5)
    unanswered: list[WriteResult] = []
    unsent: list[WriteResult] = []

    def lose_and_fill(run: Run) -> list[Any]:
        run()
        connections.script = _raise(StorageUnavailable())
        for _ in range(5):
            committer.submit(identity_of(charlie), attempt_of(charlie), unsent.append)
        raise OutcomeUnknown

    connections.script = lose_and_fill
    committer.submit(identity_of(alice), attempt_of(alice), unanswered.append)

    wait_until(lambda: len(unanswered) + len(unsent) == 6)
    assert [type(result) for result in unanswered + unsent] == [OutcomeUnknown, *[StorageUnavailable] * 5]


def test_while_sessions_end_at_any_moment_nothing_is_stored_that_is_said_not_to_be(
    settings: Settings, context: Context, alice: Tenant
) -> None:
    """With keys that many share and one that a session holds, so that every way out is taken."""
    database = Database(settings.database_url, pool_size=1, application_name="doomed")
    committer = Committer(
        database, replace(settings, storage_deadline_seconds=1.0, idempotency_wait_seconds=0.2), every_tick=lambda: None
    )
    results: dict[UUID, WriteResult] = {}
    attempts = [attempt_of(alice, key=f"hot-{n % 20}" if n % 2 else None) for n in range(200)]
    with (
        psycopg.connect(settings.admin_database_url) as hanging,
        psycopg.connect(settings.database_url, autocommit=True) as killer,
    ):
        hanging.execute(
            "INSERT INTO idempotency_records VALUES (%s, %s, %s, 'hot-1', '', gen_random_uuid(), 201, '', now(),"
            " now() + interval '1 hour')",
            [alice.project_row, alice.source_row, alice.workspace_row],
        )
        for attempt in attempts:
            committer.submit(identity_of(alice), attempt, partial(results.__setitem__, attempt.event_uid))
            if len(results) % 3 == 0:
                killer.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'doomed'"
                )
        wait_until(lambda: len(results) == len(attempts))
        hanging.rollback()

    stored = {event.event_uid for event in events_of(context, alice)}
    not_stored = {uid for uid, result in results.items() if type(result) in {StorageUnavailable, IdempotencyInProgress}}
    accepted = {uid for uid, result in results.items() if _is_stored(result)}
    assert not not_stored & stored
    assert accepted <= stored
    assert accepted
    close(database)


def _is_stored(result: WriteResult) -> bool:
    return isinstance(result, Verdict) and result.outcome in {Outcome.STORED, Outcome.RESUMED}


@pytest.mark.parametrize("said", [*_REFUSALS, RuntimeError])
def test_a_batch_that_went_unanswered_hears_its_outcome_or_that_it_is_unknown(
    app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch, said: type[Exception]
) -> None:
    client = app.test_client()
    send_batch(client, alice, b"caches the key")
    # Found out behind all its claims, with every try before it at its end; the rest says nothing of it.
    is_outcome = said in {errors.BatchRejected, errors.IdempotencyKeyReused, *REFUSALS.values()}
    # An outcome comes with the second try, however long that takes; for the rest it is tried again to the end.
    monkeypatch.setattr(batches, "_deadline", lambda _: time.monotonic() + (60 if is_outcome else 0.3))
    store, tries = batches._store, []  # noqa: SLF001 - where each try begins

    def store_once(*arguments: Any) -> Receipt:
        tries.append(1)
        if len(tries) > 1:
            raise said
        return store(*arguments)

    monkeypatch.setattr(batches, "_store", store_once)
    LossyCommits(monkeypatch, "after")

    response = send_batch(client, alice, [event_for(alice)], "k")

    error = error_of(response)
    if is_outcome:
        assert error["code"] == said.code  # type: ignore[attr-defined]
    else:
        assert (response.status_code, error["message"]) == (503, OutcomeUnknown().message)


def _pending(tenant: Tenant) -> tuple[PendingWrite, list[WriteResult]]:
    results: list[WriteResult] = []
    write = PendingWrite(identity_of(tenant), attempt_of(tenant), time.monotonic() + 10, results.append)
    return write, results


def _commit_unanswered(
    connections: ScriptedConnections, then: Callable[[Run], list[Any]]
) -> Callable[[Run], list[Any]]:
    def script(run: Run) -> list[Any]:
        run()
        connections.script = then
        raise OutcomeUnknown

    return script
