"""What the stored function promises to other transactions: an order of its locks, and no write under a change."""

import random
from collections.abc import Iterator
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.config import Settings
from app.context import Context
from app.credentials.verification import Identity
from app.database.advisory_locks import exclude_workspace
from app.database.engine import TenantScope
from app.database.owner import owner_engine
from app.identifiers import uuid7
from app.ingest.envelope import Attempt
from app.ingest.storage import Outcome, store
from tests.support.people import Tenant, execute, rows
from tests.support.scripted_connections import attempt_of

_NAMES = [f"n{number:02}" for number in range(40)]

pytestmark = pytest.mark.wiring


@pytest.fixture(name="owner")
def _owner(settings: Settings) -> Iterator[Session]:
    """The tables' owner, in a transaction that is rolled back, and who notes the order in which rows are inserted."""
    engine = owner_engine(settings.admin_database_url)
    with engine.connect() as connection, Session(connection) as session:
        session.execute(text("CREATE TEMPORARY TABLE inserted (number serial, relation text, name text)"))
        session.execute(
            text(
                "CREATE FUNCTION pg_temp.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
                " INSERT INTO pg_temp.inserted (relation, name) VALUES (TG_TABLE_NAME, to_jsonb(NEW) ->> TG_ARGV[0]);"
                " RETURN NEW; END $$"
            )
        )
        for table, column in (
            ("idempotency_records", "idempotency_key"),
            ("event_ledger", "event_id"),
            ("usage_outbox", "usage_uid"),
        ):
            noted = (
                f"CREATE TRIGGER note BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION pg_temp.note('{column}')"
            )
            session.execute(text(noted))
        yield session
        session.rollback()
    engine.dispose()


def _store(session: Session, tenant: Tenant, *attempts: Attempt, waits: bool = True) -> list[Outcome]:
    verdicts = store(
        lambda statement, parameters: session.connection().exec_driver_sql(statement, tuple(parameters)).all(),
        [(Identity(tenant.key_id, tenant.key_row, tenant.workspace_row), attempt) for attempt in attempts],
        idempotency_ttl_seconds=3600,
        lock_wait_seconds=5,
        waits=waits,
    )
    return [verdict.outcome for verdict in verdicts]


def _inserted(session: Session, table: str) -> list[str]:
    noted = text("SELECT name FROM pg_temp.inserted WHERE relation = :relation ORDER BY number")
    return list(session.scalars(noted, {"relation": table}))


def _shuffled(names: list[str]) -> list[str]:
    return random.Random(1).sample(names, len(names))


@pytest.mark.parametrize(("table", "named"), [("idempotency_records", "key"), ("event_ledger", "event_id")])
def test_claims_are_made_in_the_order_of_their_names_so_that_groups_never_wait_in_a_circle(
    owner: Session, alice: Tenant, table: str, named: str
) -> None:
    group = [attempt_of(alice, **{named: name}) for name in _shuffled(_NAMES)]

    assert _store(owner, alice, *group) == [Outcome.STORED] * len(_NAMES)

    assert _inserted(owner, table) == _NAMES


def test_counts_of_duplicates_are_made_in_the_order_of_their_ids_so_that_groups_never_wait_in_a_circle(
    owner: Session, alice: Tenant
) -> None:
    """Attempts that were first made in other groups name rows that these may be writing now."""
    _store(owner, alice, attempt_of(alice, event_id="e"))
    again = [attempt_of(alice, event_id="e") for _ in _NAMES]
    for attempt in again:
        attempt.counted_under = uuid7()
    (before,) = _inserted(owner, "usage_outbox")

    assert _store(owner, alice, *again) == [Outcome.DUPLICATE] * len(_NAMES)

    _, *counted = _inserted(owner, "usage_outbox")
    assert len(counted) == len(_NAMES)
    assert before not in counted
    assert counted == sorted(counted, key=UUID)


def test_an_event_of_a_workspace_that_is_being_changed_takes_no_expired_record_away(
    context: Context, alice: Tenant
) -> None:
    with context.database.transaction(TenantScope.ALL) as session:
        _store(session, alice, attempt_of(alice, key="k"))
    execute(
        context, "UPDATE idempotency_records SET expires_at = now() WHERE source_id = :source", source=alice.source_row
    )

    with context.database.transaction(TenantScope.ALL) as change:
        exclude_workspace(change, alice.workspace_row)
        with context.database.transaction(TenantScope.ALL) as session:
            assert _store(session, alice, attempt_of(alice, key="k"), waits=False) == [Outcome.HELD]

    assert len(rows(context, "SELECT FROM idempotency_records WHERE source_id = :id", id=alice.source_row)) == 1
