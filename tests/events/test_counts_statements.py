"""The statements with which counts are read, as the app's role: how many days each touches, and by which index."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import event

from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.conninfo import conninfo_of
from app.database.migrate import migrate
from app.events.counts import reading as counts_reading
from app.events.counts.buckets import Interval
from app.events.counts.domain import CountsRequest, count_events
from app.events.statements import DAYS_AT_ONCE
from app.factory import create_app
from app.maintenance.partitions import make_event_partitions
from app.maintenance.usage import fold_usage
from app.management.common.authentication import authenticate
from tests.events.counts_world import index_events
from tests.support.databases import close, fresh_database
from tests.support.people import Tenant, execute, make_tenant

_PARTITION = re.compile(r"events_[0-9]{8}")
_FIRST = date(2024, 2, 1)
_DAYS = 40
_EVENTS = """
    INSERT INTO events (project_id, received_at, event_uid, workspace_id, environment_id, source_id, source_key_id,
        event_id, event_type, severity, occurred_at, payload)
    SELECT :project, at, gen_random_uuid(), :workspace, environment_id, :source, :key, 'e', 'type' || n % 20, 'info',
        at, jsonb_build_object('n', n % 7, 'order', n)
    FROM sources, generate_series(1, :number) AS n,
        LATERAL (SELECT timestamptz '2024-02-01Z' + n * (interval '40 days' / (:number + 1)) AS at) AS moment
    WHERE id = :source
"""
_OUTBOX = """
    INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
        payload_bytes, received_at, environment_id, event_type, severity)
    SELECT project_id, gen_random_uuid(), workspace_id, source_id, source_key_id, 'stored', count(*), 1,
        date_trunc('hour', received_at, 'UTC'), environment_id, event_type, severity
    FROM events WHERE project_id = :project GROUP BY 1, 3, 4, 5, 9, 10, 11, 12
"""
# As if they had been received one after the other.
_IN_ORDER = """
    UPDATE events SET position = number
    FROM (SELECT received_at AS at, event_uid AS uid, row_number() OVER (ORDER BY received_at) AS number FROM events)
    WHERE received_at = at AND event_uid = uid
"""
# What closing a day writes.
_CLOSED = "INSERT INTO event_days SELECT received_at::date, min(position), max(position) FROM events GROUP BY 1"
_RANGE = {"begin": datetime(2024, 2, 1, 5, 20, tzinfo=UTC), "end": datetime(2024, 3, 10, 7, 40, tzinfo=UTC)}


@dataclass(frozen=True, slots=True)
class _Stored:
    context: Context
    tenant: Tenant
    sparse: Tenant
    """Its segments are of eight days each."""


@pytest.fixture(scope="module", name="stored")
def _stored(server_url: str, credentials: Credentials) -> Iterator[_Stored]:
    """Forty days of a project's events, and ten times as many of another one, in a database of their own."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        context = create_app(settings, credentials=credentials).extensions[EXTENSION]
        make_event_partitions(context.database, first_day=_FIRST, days=_DAYS)
        tenant, other, sparse = make_tenant(context), make_tenant(context), make_tenant(context)
        for each, number in ((sparse, 1_000), (other, 20_000), (tenant, 2_000)):
            row = {"project": each.project_row, "workspace": each.workspace_row}
            execute(context, _EVENTS, **row, source=each.source_row, key=each.key_row, number=number)
            execute(context, _OUTBOX, project=each.project_row)
        fold_usage(context.database)
        with psycopg.connect(**conninfo_of(settings.admin_database_url), autocommit=True) as owner:
            owner.execute(_IN_ORDER)
            owner.execute(_CLOSED)
            index_events(context, tenant)
            index_events(context, sparse, size=500)
            owner.execute("ANALYZE events, event_hours, usage_outbox")
        yield _Stored(context, tenant, sparse)
        close(context.database)
        close(context.reading)


def _counted(stored: _Stored, tenant: Tenant | None = None, **asked: Any) -> tuple[int, list[dict[str, Any]]]:
    """The total, and the plans of all statements that were sent for it."""
    context, tenant = stored.context, tenant or stored.tenant
    operator = authenticate(f"Bearer {tenant.token}", context.credentials, context.database)
    plans: list[dict[str, Any]] = []

    def explain(_connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "readable_events" in statement or "event_hours" in statement:
            cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", parameters)
            plans.append(cursor.fetchone()[0][0]["Plan"])

    event.listen(context.reading.engine, "before_cursor_execute", explain)
    try:
        request = CountsRequest(project_id=tenant.project_id, **_RANGE | asked)
        return count_events(context.reading, operator, request).total, plans
    finally:
        event.remove(context.reading.engine, "before_cursor_execute", explain)


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from _nodes(inner)


def _days(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """The scans of partitions."""
    return [node for node in _nodes(plan) if _PARTITION.fullmatch(node.get("Relation Name", ""))]


def _names(scans: list[dict[str, Any]]) -> set[str]:
    return {scan["Relation Name"] for scan in scans}


def _read_by(scan: dict[str, Any]) -> str:
    return str(scan.get("Index Cond", scan.get("Recheck Cond", "")))


_ASKED: list[dict[str, Any]] = [
    {},
    {"group_by": "type"},
    {"group_by": "type", "timezone": "Asia/Kolkata", "interval": Interval.DAY},
    {"group_by": "key", "timezone": "Asia/Kolkata", "interval": Interval.SIX_HOURS},
    {"q": "type:type1 severity:info", "group_by": "source", "interval": Interval.WEEK},
    {"group_by": "payload.n"},
    {"q": "payload.n:3"},
    {"q": "payload.n:3 type:type1", "group_by": "payload.order"},
    {"q": "NOT payload.n:3", "interval": Interval.MONTH},
    {"q": "timestamp>=2024-02-05T00:00:00Z", "group_by": "environment"},
]


@pytest.mark.parametrize("asked", _ASKED, ids=str)
def test_no_statement_touches_more_than_eight_days_and_each_day_is_read_by_an_index(
    stored: _Stored, asked: dict[str, Any]
) -> None:
    total, plans = _counted(stored, **asked)

    assert total > 0
    for plan in plans:
        days = _days(plan)
        assert len(_names(days)) <= DAYS_AT_ONCE
        assert all("project_id" in _read_by(scan) for scan in days)


@pytest.mark.parametrize("interval", [Interval.THREE_HOURS, Interval.DAY, Interval.WEEK])
def test_hours_that_two_buckets_share_are_read_by_the_primary_key_and_no_others(
    stored: _Stored, interval: Interval
) -> None:
    _, plans = _counted(stored, group_by="type", timezone="Asia/Kolkata", interval=interval)

    scans = [scan for plan in plans for scan in _days(plan)]
    assert scans
    assert all("received_at" in _read_by(scan) for scan in scans)


@pytest.mark.parametrize("group_by", ["none", "type", "severity", "source", "environment", "key"])
def test_whole_hours_of_what_is_counted_already_take_one_statement_and_no_row(stored: _Stored, group_by: str) -> None:
    begin = datetime(2024, 2, 3, tzinfo=UTC)

    total, plans = _counted(stored, group_by=group_by, begin=begin, end=begin + timedelta(days=30))

    assert total == 1_500
    (plan,) = plans
    assert _days(plan) == []
    (hours,) = (node["Index Cond"] for node in _nodes(plan) if node.get("Index Name") == "pk_event_hours")
    assert "project_id" in hours
    assert "hour" in hours


def test_the_ends_of_a_week_are_read_in_the_statement_of_its_whole_hours(stored: _Stored) -> None:
    begin = datetime(2024, 2, 3, 10, 20, tzinfo=UTC)

    _, plans = _counted(stored, group_by="type", begin=begin, end=begin + timedelta(days=7))

    (plan,) = plans
    assert 2 <= len(_names(_days(plan))) <= DAYS_AT_ONCE


def test_hours_that_can_hold_no_match_are_not_read(stored: _Stored) -> None:
    total, plans = _counted(stored, q="NOT payload.n:3 type:none")

    assert total == 0
    assert [day for plan in plans for day in _days(plan)] == []


@pytest.mark.parametrize("few_segments", [50, 0])
def test_the_skip_index_says_which_days_are_read(
    stored: _Stored, few_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts_reading, "_FEW_SEGMENTS", few_segments)
    begin = datetime(2024, 2, 3, tzinfo=UTC)

    total, plans = _counted(stored, q="payload.order:777", begin=begin, end=begin + timedelta(days=30))

    assert total == 1
    assert len({name for plan in plans for name in _names(_days(plan))}) <= 2


def test_a_segment_of_many_days_is_read_in_several_statements(stored: _Stored) -> None:
    total, plans = _counted(stored, stored.sparse, q="payload.n:3")

    assert total > 100
    assert max(len(_names(_days(plan))) for plan in plans) == DAYS_AT_ONCE
