"""A month goes by: events come in every day, the worker is away for nine of them, and what is kept levels off."""

import json
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import pytest

from app.credentials.verification import Identity
from app.database.engine import TenantScope
from app.identifiers import uuid7
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import Outcome, store
from app.maintenance.schedule import TASKS
from app.maintenance.task import TaskContext
from app.wire.exact_json import read_object
from tests.support.counting_events import differences
from tests.support.database_clock import make_clock_settable, set_clock
from tests.support.installation import Installation, noon
from tests.support.people import Tenant, execute
from tests.support.sending import event_for

# It ends in the future, where no partition has been made by anybody else.
_FIRST = date(2031, 3, 1)
_DAYS = 30
_AWAY = range(11, 20)
_EVENTS_A_DAY = 200
_RETENTION, _SHORTER, _EVENT_ID_DAYS, _AHEAD = 7, 2, 3, 4
_VACUUMED = ("idempotency_records", "event_ledger", "usage_outbox")

pytestmark = [pytest.mark.wiring, pytest.mark.slow]


@dataclass(frozen=True)
class _Month:
    installation: Installation
    alice: Tenant
    charlie: Tenant

    def task_context(self, now: datetime) -> TaskContext:
        task_context = self.installation.task_context(now)
        settings = replace(
            task_context.settings, retention_days=_RETENTION, event_id_days=_EVENT_ID_DAYS, partitions_ahead_days=_AHEAD
        )
        return replace(task_context, settings=settings)

    def work(self, now: datetime) -> None:
        """Two hours of all tasks, as a run drops few days; and PostgreSQL's own vacuum, which comes when it likes."""
        for task in (*TASKS, *TASKS):
            task.work(self.task_context(now))
        for table in _VACUUMED:
            self.installation.sql(f"VACUUM {table}")

    def receive(self, day: date) -> set[Outcome]:
        """A day's events of both workspaces, spread over its hours; returns what became of them."""
        outcomes = set()
        for tenant in (self.alice, self.charlie):
            for hour in range(0, 24, 6):
                at = datetime.combine(day, datetime.min.time(), UTC) + timedelta(hours=hour)
                count = _EVENTS_A_DAY // 4
                attempts = [_attempt(tenant, f"{day}-{hour}-{n}") for n in range(count)]
                outcomes |= self._store(tenant, attempts, at)
        return outcomes

    def _store(self, tenant: Tenant, attempts: list[Attempt], at: datetime) -> set[Outcome]:
        identity = Identity(row_id=tenant.key_row, workspace_id=tenant.workspace_row, public_id=tenant.key_id)
        with self.installation.database.transaction(TenantScope.ALL) as session:
            set_clock(session, at)
            verdicts = store(
                lambda statement, parameters: session.connection().exec_driver_sql(statement, tuple(parameters)).all(),
                [(identity, attempt) for attempt in attempts],
                idempotency_ttl_seconds=86_400,
                lock_wait_seconds=1,
            )
        return {verdict.outcome for verdict in verdicts}

    def count(self, table: str, *where: Tenant) -> int:
        condition = f" WHERE project_id = {where[0].project_row}" if where else ""
        return int(self.installation.sql(f"SELECT count(*) FROM {table}{condition}")[0][0])

    def bytes_kept(self) -> int:
        """Of everything that events leave behind and that has to level off."""
        sizes = "coalesce(sum(pg_total_relation_size(oid)), 0)"
        found = self.installation.sql(
            f"SELECT {sizes} FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
            " AND (starts_with(relname, 'events_') OR relname = ANY (%s))",
            list(_VACUUMED),
        )
        return int(found[0][0])


@pytest.fixture(name="month")
def _month(installation: Installation) -> _Month:
    make_clock_settable(installation.sql)
    month = _Month(installation, installation.tenant(), installation.tenant())
    shorter = "UPDATE workspaces SET retention_days = :days WHERE id = :id"
    execute(installation.context, shorter, days=_SHORTER, id=month.charlie.workspace_row)
    return month


def test_nothing_is_missing_nothing_is_past_its_time_and_sizes_level_off(month: _Month) -> None:
    sizes = []
    for number in range(_DAYS):
        day = _FIRST + timedelta(days=number)
        assert month.receive(day) == {Outcome.STORED}, "a missing partition never makes ingest fail"
        if number in _AWAY:
            continue
        month.work(noon(day + timedelta(days=1)))
        _check(month, day + timedelta(days=1))
        sizes.append(month.bytes_kept())

    # Level before the worker went away, and level after it came back: what had piled up is used again. PostgreSQL's own
    # vacuum may come at any moment; without the purge four days would be a third more.
    came_back = _AWAY.start
    assert sizes[came_back - 1] < 1.1 * sizes[came_back - 4]
    assert sizes[-1] < 1.1 * sizes[-5]
    assert sizes[-1] < sizes[came_back]
    assert month.count("usage_outbox") == 0
    counted = month.installation.sql("SELECT sum(events)::bigint FROM usage_hours WHERE outcome = 'stored'")
    assert counted == [(2 * _EVENTS_A_DAY * _DAYS,)]


def _check(month: _Month, today: date) -> None:
    """What holds after the worker has done its work at noon of `today`."""
    recent = [day for day in month.installation.days() if day >= _FIRST]
    begin = max(_FIRST, today - timedelta(days=_RETENTION))
    assert recent == [begin + timedelta(days=n) for n in range((today - begin).days + _AHEAD + 1)]
    days_received = (today - _FIRST).days
    assert month.count("events", month.alice) == _EVENTS_A_DAY * min(days_received, _RETENTION)
    assert month.count("events", month.charlie) == _EVENTS_A_DAY * min(days_received, _SHORTER)
    assert month.count("events_default") == 0
    assert differences(month.installation) == []
    assert month.installation.sql("SELECT sum(events)::int FROM event_hours") == [(month.count("events"),)]
    assert month.count("event_days") == len([day for day in recent if day < today])
    # Received after noon of the day that is `_EVENT_ID_DAYS` old, or 24 hours ago: half a day more than whole days.
    assert month.count("event_ledger", month.alice) == _EVENTS_A_DAY * min(days_received, _EVENT_ID_DAYS) - (
        _EVENTS_A_DAY * 3 // 4 if days_received >= _EVENT_ID_DAYS else 0
    )
    assert month.count("idempotency_records", month.alice) == _EVENTS_A_DAY // 4


def _attempt(tenant: Tenant, name: str) -> Attempt:
    event = event_for(tenant, event_id=name)
    return Attempt(
        envelope=read_envelope(read_object(json.dumps(event).encode())),
        idempotency_key=name,
        event_uid=uuid7(),
    )
