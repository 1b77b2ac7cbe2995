"""The planner knows what a day holds, before autovacuum has come by."""

from datetime import date, timedelta

import pytest

from app.maintenance.statistics import analyze_grown_days
from app.maintenance.task import TaskResult
from tests.support.installation import Installation, noon

_TODAY = date(2025, 3, 30)
_KNOWN = "SELECT relname, reltuples::bigint FROM pg_class WHERE relname ~ '^events_2025' AND relkind = 'r' ORDER BY 1"

pytestmark = pytest.mark.wiring


@pytest.fixture(name="two_days")
def _two_days(installation: Installation) -> Installation:
    """Yesterday closed and today open, which autovacuum leaves alone."""
    installation.make_days(_TODAY - timedelta(days=1), 2)
    for table, _ in installation.sql(_KNOWN):
        installation.sql(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
    return installation


def _analyze(installation: Installation) -> TaskResult:
    return analyze_grown_days(installation.owner)


def test_a_day_is_analyzed_when_it_holds_something_and_again_when_that_has_doubled(two_days: Installation) -> None:
    alice = two_days.tenant()
    two_days.store(alice, noon(_TODAY), count=6_000)

    assert _analyze(two_days) == TaskResult(1)
    assert two_days.sql(_KNOWN) == [("events_20250329", -1), ("events_20250330", 6_000)]
    two_days.store(alice, noon(_TODAY), count=4_000)
    assert _analyze(two_days) == TaskResult(0)

    two_days.store(alice, noon(_TODAY), count=4_000)
    assert _analyze(two_days) == TaskResult(1)
    assert two_days.sql(_KNOWN) == [("events_20250329", -1), ("events_20250330", 14_000)]


def test_a_closed_day_that_gets_events_by_hand_is_analyzed_too(two_days: Installation) -> None:
    two_days.store(two_days.tenant(), noon(_TODAY - timedelta(days=1)), count=6_000)

    assert _analyze(two_days) == TaskResult(1)
    assert two_days.sql(_KNOWN)[0] == ("events_20250329", 6_000)


def test_of_few_events_it_need_not_know(two_days: Installation) -> None:
    two_days.store(two_days.tenant(), noon(_TODAY), count=100)

    assert _analyze(two_days) == TaskResult(0)


def test_whoever_holds_the_day_is_not_waited_for(two_days: Installation) -> None:
    two_days.store(two_days.tenant(), noon(_TODAY), count=6_000)

    with two_days.owner.connection() as other, other.transaction():
        other.execute("LOCK TABLE events_20250330 IN SHARE UPDATE EXCLUSIVE MODE")
        _analyze(two_days)
        assert two_days.sql(_KNOWN)[1] == ("events_20250330", -1)
