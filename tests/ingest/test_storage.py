"""The one statement, and the barrier around it, seen from two sessions that meet at a chosen moment."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.context import Context
from app.credentials.verification import Identity
from app.database.advisory_locks import exclude_workspace
from app.database.engine import TenantScope
from app.ingest.envelope import Attempt
from app.ingest.storage import Outcome, Verdict, store
from app.maintenance.usage import REPEATABLE, fold_usage
from tests.support.people import Tenant, events_of, execute, rows
from tests.support.scripted_connections import attempt_of
from tests.support.servers import OUR_LOCKS
from tests.support.waiting import wait_until

_NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)

pytestmark = pytest.mark.wiring


def test_a_right_is_not_taken_away_before_every_ingest_that_may_not_have_seen_it_has_ended(
    context: Context, alice: Tenant
) -> None:
    def revoke() -> int:
        with context.database.transaction(TenantScope.ALL) as session:
            exclude_workspace(session, alice.workspace_row)
        return len(events_of(context, alice))

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            assert _store(session, alice, attempt_of(alice))[0].outcome is Outcome.STORED
            revocation = pool.submit(revoke)
            wait_until(lambda: rows(context, _WAITING_FOR_ADVISORY_LOCK))
            assert not revocation.done()
        stored_when_answered = revocation.result()

    assert stored_when_answered == 1


def test_an_ingest_that_meets_a_revocation_waits_and_then_sees_it(context: Context, alice: Tenant) -> None:
    def ingest() -> Outcome:
        with context.database.transaction(TenantScope.ALL) as session:
            return _store(session, alice, attempt_of(alice))[0].outcome

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            exclude_workspace(session, alice.workspace_row)
            session.connection().exec_driver_sql(
                "UPDATE source_keys SET revoked_at = %s WHERE id = %s", (_NOW, alice.key_row)
            )
            waiting = pool.submit(ingest)
            wait_until(lambda: rows(context, _WAITING_FOR_ADVISORY_LOCK))
        assert waiting.result() is Outcome.INVALID_SOURCE_KEY


def test_a_workspace_under_change_holds_up_no_other_workspace(context: Context, alice: Tenant, charlie: Tenant) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        exclude_workspace(session, alice.workspace_row)
        with context.database.transaction(TenantScope.ALL) as other:
            assert _store(other, charlie, attempt_of(charlie))[0].outcome is Outcome.STORED


@pytest.mark.parametrize("claim", [{"event_id": "e"}, {"key": "k"}])
def test_the_loser_of_a_race_for_a_claim_learns_how_it_ended_and_writes_nothing(
    context: Context, alice: Tenant, claim: dict[str, str]
) -> None:
    def lose() -> Outcome:
        with context.database.transaction(TenantScope.ALL) as session:
            return _store(session, alice, attempt_of(alice, **claim))[0].outcome

    with ThreadPoolExecutor(1) as pool:
        with context.database.transaction(TenantScope.ALL) as session:
            assert _store(session, alice, attempt_of(alice, **claim))[0].outcome is Outcome.STORED
            loser = pool.submit(lose)
            wait_until(lambda: rows(context, _WAITING_FOR_A_ROW))
        assert loser.result() is (Outcome.REPLAYED if "key" in claim else Outcome.DUPLICATE)
    assert len(events_of(context, alice)) == 1


def test_a_group_gets_a_verdict_for_each_attempt_in_order(context: Context, alice: Tenant) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        _store(session, alice, attempt_of(alice, event_id="known"))
    group = [
        attempt_of(alice, event_id="z", key="kz"),
        attempt_of(alice, source_id="src_other"),
        attempt_of(alice, event_id="known"),
        attempt_of(alice, event_id="a", key="ka"),
        attempt_of(alice, event_id="known", payload='{"n": 2}'),
    ]

    with context.database.transaction(TenantScope.ALL) as session:
        verdicts = _store(session, alice, *group)

    assert [verdict.outcome for verdict in verdicts] == [
        Outcome.STORED,
        Outcome.SOURCE_MISMATCH,
        Outcome.DUPLICATE,
        Outcome.STORED,
        Outcome.DUPLICATE_EVENT,
    ]
    assert {event.event_id for event in events_of(context, alice)} == {"known", "z", "a"}


class TestReceipt:
    """The moment of receipt is PostgreSQL's, read behind the barrier."""

    def test_an_event_that_waited_for_the_barrier_was_received_after_what_was_committed_under_it(
        self, context: Context, alice: Tenant
    ) -> None:
        def ingest() -> Outcome:
            with context.database.transaction(TenantScope.ALL) as session:
                return _store(session, alice, attempt_of(alice, key="k"))[0].outcome

        with ThreadPoolExecutor(1) as pool:
            with context.database.transaction(TenantScope.ALL) as session:
                exclude_workspace(session, alice.workspace_row)
                waiting = pool.submit(ingest)
                wait_until(lambda: rows(context, _WAITING_FOR_ADVISORY_LOCK))
                committed_at = session.execute(text("SELECT clock_timestamp()")).scalar_one()
            assert waiting.result() is Outcome.STORED

        (event,) = events_of(context, alice)
        (record,) = rows(context, "SELECT * FROM idempotency_records WHERE source_id = :id", id=alice.source_row)
        assert event.received_at > committed_at
        assert (record.created_at, record.expires_at) == (event.received_at, event.received_at + timedelta(hours=1))

    def test_an_attempt_that_is_repeated_later_is_recognised_by_its_uid(self, context: Context, alice: Tenant) -> None:
        attempt = attempt_of(alice, key="k")
        outcomes = []
        for _ in range(2):
            with context.database.transaction(TenantScope.ALL) as session:
                outcomes.append(_store(session, alice, attempt)[0].outcome)

        assert outcomes == [Outcome.STORED, Outcome.RESUMED]
        assert len(events_of(context, alice)) == 1

    def test_a_key_that_the_worker_has_seen_expire_stays_expired_when_the_databases_clock_is_set_back(
        self, context: Context, alice: Tenant
    ) -> None:
        expire = "UPDATE source_keys SET expires_at = now() + interval '30 s', expired_at = now() + interval '30 s'"
        execute(context, f"{expire} WHERE id = :id", id=alice.key_row)

        with context.database.transaction(TenantScope.ALL) as session:
            assert _store(session, alice, attempt_of(alice))[0].outcome is Outcome.INVALID_SOURCE_KEY


class TestHeld:
    """A group that waits for no workspace."""

    def test_attempts_of_a_workspace_under_change_come_back_and_all_others_are_stored(
        self, context: Context, alice: Tenant, charlie: Tenant
    ) -> None:
        group = [(alice, attempt_of(alice, key="k")), (charlie, attempt_of(charlie)), (alice, attempt_of(alice))]

        with context.database.transaction(TenantScope.ALL) as change:
            exclude_workspace(change, alice.workspace_row)
            with context.database.transaction(TenantScope.ALL) as session:
                outcomes = _store_for(session, group, waits=False)

        assert outcomes == [Outcome.HELD, Outcome.STORED, Outcome.HELD]
        assert (len(events_of(context, alice)), len(events_of(context, charlie))) == (0, 1)
        for table in ("idempotency_records", "event_ledger", "usage_outbox"):
            assert not rows(context, f"SELECT FROM {table} WHERE project_id = :id", id=alice.project_row)

    def test_what_an_attempt_has_stored_before_counts_though_its_workspace_is_held(
        self, context: Context, alice: Tenant
    ) -> None:
        attempt = attempt_of(alice, key="k")
        with context.database.transaction(TenantScope.ALL) as session:
            _store(session, alice, attempt)

        with context.database.transaction(TenantScope.ALL) as change:
            exclude_workspace(change, alice.workspace_row)
            with context.database.transaction(TenantScope.ALL) as session:
                assert _store_for(session, [(alice, attempt)], waits=False) == [Outcome.RESUMED]

    def test_without_a_change_nothing_is_held(self, context: Context, alice: Tenant, charlie: Tenant) -> None:
        with context.database.transaction(TenantScope.ALL) as session:
            outcomes = _store_for(session, [(alice, attempt_of(alice)), (charlie, attempt_of(charlie))], waits=False)

        assert outcomes == [Outcome.STORED, Outcome.STORED]


class TestUsageOfWhatIsRepeated:
    """A group that stores nothing leaves its usage, and an attempt is counted once however often it is made."""

    @pytest.fixture(name="group", params=[Outcome.REPLAYED, Outcome.DUPLICATE])
    def _group(self, request: pytest.FixtureRequest, context: Context, alice: Tenant) -> list[Attempt]:
        """Three attempts that will each come to that outcome."""
        names: list[dict[str, str]] = [
            {"event_id": f"e{n}"} | ({"key": f"k{n}"} if request.param is Outcome.REPLAYED else {}) for n in range(3)
        ]
        with context.database.transaction(TenantScope.ALL) as session:
            _store(session, alice, *(attempt_of(alice, **named) for named in names))
        return [attempt_of(alice, **named) for named in names]

    def test_repeated_in_other_company_and_after_a_fold(
        self, context: Context, alice: Tenant, group: list[Attempt]
    ) -> None:
        first, second, third = group
        for company in ([first, second, third], [third], [second, first], [second], [third, first]):
            with context.database.transaction(TenantScope.ALL) as session:
                _store(session, alice, *company)
            fold_usage(context.database, repeatable=REPEATABLE)

        assert _counted(context, alice) == 3

    def test_repeated_while_the_first_try_still_runs(
        self, context: Context, alice: Tenant, group: list[Attempt]
    ) -> None:
        def repeat() -> None:
            with context.database.transaction(TenantScope.ALL) as session:
                _store(session, alice, group[1])

        with ThreadPoolExecutor(1) as pool:
            with context.database.transaction(TenantScope.ALL) as session:
                _store(session, alice, *group)
                repeated = pool.submit(repeat)
                wait_until(lambda: rows(context, _WAITING_FOR_A_ROW))
            repeated.result()

        assert _counted(context, alice) == 3

    def test_repeated_before_the_first_try_comes_to_its_end(
        self, context: Context, alice: Tenant, group: list[Attempt]
    ) -> None:
        lost = context.database.engine.connect()
        try:
            # It has been made, so that its attempts know it, and its rows are gone with its connection.
            _store(Session(lost), alice, *group)
            lost.rollback()
            for company in ([group[2]], [group[0]], group):
                with context.database.transaction(TenantScope.ALL) as session:
                    _store(session, alice, *company)
        finally:
            lost.close()

        assert _counted(context, alice) == 3

    def test_once_nothing_can_be_repeated_any_more_it_is_folded(
        self, context: Context, alice: Tenant, group: list[Attempt]
    ) -> None:
        with context.database.transaction(TenantScope.ALL) as session:
            _store(session, alice, *group)
        execute(
            context,
            "UPDATE usage_outbox SET received_at = received_at - interval '2 minutes' WHERE project_id = :id",
            id=alice.project_row,
        )
        fold_usage(context.database, repeatable=REPEATABLE)

        assert not rows(context, "SELECT FROM usage_outbox WHERE project_id = :id", id=alice.project_row)
        assert _counted(context, alice) == 3


_COUNTED = """
    SELECT coalesce(sum(events), 0)::integer AS events FROM (
        SELECT events, outcome FROM usage_outbox WHERE project_id = :id
        UNION ALL SELECT events, outcome FROM usage_hours WHERE project_id = :id
    ) AS used WHERE outcome <> 'stored'
"""
_WAITING_FOR_ADVISORY_LOCK = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'advisory' AND NOT granted"
_WAITING_FOR_A_ROW = f"SELECT 1 FROM {OUR_LOCKS} locktype = 'transactionid' AND NOT granted"


def _counted(context: Context, tenant: Tenant) -> int:
    """How many duplicates and replays usage shows."""
    (row,) = rows(context, _COUNTED, id=tenant.project_row)
    return int(row.events)


def _store(session: Session, tenant: Tenant, *attempts: Attempt) -> list[Verdict]:
    return _store_all(session, [(tenant, attempt) for attempt in attempts], waits=True)


def _store_for(session: Session, attempts: list[tuple[Tenant, Attempt]], *, waits: bool) -> list[Outcome]:
    return [verdict.outcome for verdict in _store_all(session, attempts, waits=waits)]


def _store_all(session: Session, attempts: list[tuple[Tenant, Attempt]], *, waits: bool) -> list[Verdict]:
    return store(
        lambda statement, parameters: session.connection().exec_driver_sql(statement, tuple(parameters)).all(),
        [(Identity(tenant.key_id, tenant.key_row, tenant.workspace_row), attempt) for tenant, attempt in attempts],
        idempotency_ttl_seconds=3600,
        lock_wait_seconds=5,
        waits=waits,
    )
