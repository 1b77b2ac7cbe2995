"""However PostgreSQL gets lost, and whatever was being said: a transaction ends with StorageUnavailable."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from sqlalchemy import Connection, text

from app.config import Settings
from app.context import Context
from app.database import engine
from app.database.dedicated_connection import DeadlineConnection
from app.database.engine import Database, TenantScope
from app.database.owner import Owner
from app.errors import NotFound, OutcomeUnknown, Refusal, StorageUnavailable
from app.telemetry import metrics
from tests.support.databases import close
from tests.support.lost_backends import Wire, end_backend, losing_backend, wired
from tests.support.people import rows
from tests.support.waiting import wait_until

_FAULTS = {"silent": Wire.fall_silent, "broken": Wire.break_now}


class _ControlError(Exception):
    """Leaves a transaction, as AlreadyDoneError does: neither a refusal nor a fault."""


@pytest.fixture(name="wire", params=_FAULTS)
def _wire(settings: Settings, request: pytest.FixtureRequest) -> Iterator[tuple[Database, Callable[[], None]]]:
    """A Database with an open connection, and what cuts it off."""
    with wired(settings.database_url) as (database, wire):
        with database.transaction(TenantScope.ALL) as session:
            session.execute(text("SELECT 1"))
        yield database, lambda: _FAULTS[request.param](wire)


@pytest.mark.parametrize("said", [NotFound, _ControlError, StorageUnavailable])
def test_what_is_raised_when_the_wire_fails_means_unavailable(
    wire: tuple[Database, Callable[[], None]], said: type[Exception]
) -> None:
    database, fail = wire
    with pytest.raises(StorageUnavailable), database.transaction(TenantScope.ALL) as session:  # noqa: PT012 - the block is the subject
        session.execute(text("SELECT 1"))
        fail()
        raise said


def test_what_is_unknown_stays_unknown_when_the_wire_fails(wire: tuple[Database, Callable[[], None]]) -> None:
    database, fail = wire
    with pytest.raises(OutcomeUnknown), database.transaction(TenantScope.ALL) as session:  # noqa: PT012 - the block is the subject
        session.execute(text("SELECT 1"))
        fail()
        raise OutcomeUnknown


def test_a_commit_into_a_failed_wire_is_unknown(wire: tuple[Database, Callable[[], None]]) -> None:
    database, fail = wire
    with pytest.raises(OutcomeUnknown), database.transaction(TenantScope.ALL, deadline_seconds=0.3) as session:  # noqa: PT012 - the block is the subject
        session.execute(text("SELECT 1"))
        fail()


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_first_connection_that_fails_means_unavailable_in_time(settings: Settings, fault: str) -> None:
    """SQLAlchemy asks it a few things of its own, before a transaction begins."""
    with wired(settings.database_url) as (database, wire), pytest.MonkeyPatch.context() as patch:
        connect = DeadlineConnection.connect

        def connect_and_fail(**arguments: object) -> object:
            connection = connect(**arguments)  # type: ignore[arg-type]
            _FAULTS[fault](wire)
            return connection

        patch.setattr(DeadlineConnection, "connect", connect_and_fail)
        with pytest.raises(StorageUnavailable), database.transaction(TenantScope.ALL):
            pass


@pytest.mark.parametrize("end", ["refusal", "commit"])
def test_a_backend_may_end_at_any_moment_of_a_transaction(context: Context, settings: Settings, end: str) -> None:
    with losing_backend(context.database.engine, settings.database_url, at=999) as loss:
        assert type(_outcome_of(context.database, end)) is (NotFound if end == "refusal" else type(None))
    assert loss.moments == 4
    for at in range(loss.moments):
        with losing_backend(context.database.engine, settings.database_url, at):
            raised = _outcome_of(context.database, end)
        is_commit = end == "commit" and at == loss.moments - 1
        assert type(raised) is (OutcomeUnknown if is_commit else StorageUnavailable), at


def test_a_refusal_has_the_time_of_its_transaction_to_roll_back(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that is slow for a moment makes no 503 of it."""
    monkeypatch.setattr("app.database.engine._ROLLBACK_SECONDS", 0.0)

    assert type(_outcome_of(context.database, "refusal")) is NotFound


def test_nor_does_a_silent_server_delay_it_for_as_long_as_its_transaction_may_take(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: list[float] = []

    def set_and_note(connection: Connection | None, until: float) -> None:
        left.append(until - time.monotonic())
        set_deadline(connection, until)

    set_deadline = engine._set_deadline  # noqa: SLF001 - what a transaction may still take is seen nowhere else
    monkeypatch.setattr(engine, "_set_deadline", set_and_note)

    assert type(_outcome_of(context.database, "refusal")) is NotFound
    of_the_transaction, of_the_rollback = left
    assert of_the_rollback <= 1.5 < of_the_transaction


def test_a_lost_connection_gives_its_slot_in_the_pool_back(settings: Settings) -> None:
    database = Database(settings.database_url, pool_size=1, application_name="lossy")
    in_use = metrics.POOL_IN_USE.labels("lossy")
    for at in range(5):
        with losing_backend(database.engine, settings.database_url, at), suppress(Refusal):
            _run(database, "refusal")
        assert in_use._value.get() == 0  # noqa: SLF001 - prometheus_client has no other way
        with database.transaction(TenantScope.ALL) as session:
            assert session.execute(text("SELECT 1")).scalar_one() == 1
    close(database)


def test_a_server_that_hangs_up_on_whom_it_lets_in_is_unavailable(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(settings.database_url, pool_size=1)
    _run(database, "commit")
    monkeypatch.setattr("app.database.engine.has_hung_up", lambda _: True)
    with pytest.raises(StorageUnavailable), database.transaction(TenantScope.ALL):
        pass
    close(database)


def test_a_dedicated_connection_that_loses_its_backend_between_two_statements_goes_on(
    context: Context, settings: Settings
) -> None:
    connection = context.database.dedicated_connection()
    ((pid,),) = connection.run("SELECT pg_backend_pid()", (), _soon())
    end_backend(settings.database_url, pid)
    wait_until(lambda: not rows(context, "SELECT 1 FROM pg_stat_activity WHERE pid = :pid", pid=pid))

    assert connection.run("SELECT 1", (), _soon()) == [(1,)]
    connection.close()


def test_the_owner_s_connection_that_is_lost_means_unavailable(settings: Settings) -> None:
    owner = Owner(settings.admin_database_url)
    with pytest.raises(StorageUnavailable), owner.connection() as connection:  # noqa: PT012 - the block is the subject
        end_backend(settings.admin_database_url, connection.info.backend_pid)
        connection.execute("SELECT 1")
    with pytest.raises(StorageUnavailable), owner.connection() as connection, connection.transaction():  # noqa: PT012
        connection.execute("SELECT 1")
        end_backend(settings.admin_database_url, connection.info.backend_pid)


def _outcome_of(database: Database, end: str) -> Exception | None:
    try:
        _run(database, end)
    except Refusal as refusal:
        return refusal
    return None


def _run(database: Database, end: str) -> None:
    with database.transaction(TenantScope.ALL) as session:
        session.execute(text("SELECT 1"))
        session.execute(text("SELECT count(*) FROM workspaces"))
        if end == "refusal":
            raise NotFound


def _soon() -> float:
    return time.monotonic() + 10
