"""Marks of closed days: a follower skips what it has read, and never an event."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from app.maintenance.event_days import mark_closed_days
from app.maintenance.partitions import Partition
from app.maintenance.retention import drop_old_partitions
from app.maintenance.task import TaskResult
from app.maintenance.unfinished import complete_until, oldest_unfinished
from tests.support.installation import Installation, noon

# In the past of any clock, because event_days_after asks PostgreSQL's.
_TODAY = date(2025, 3, 30)
_MARKS = "SELECT day, first_position, last_position FROM event_days ORDER BY day"

pytestmark = pytest.mark.wiring


def _day(age: int) -> date:
    return _TODAY - timedelta(days=age)


@pytest.fixture(name="three_days")
def _three_days(installation: Installation) -> Installation:
    """Events of two projects the day before yesterday, none yesterday, some today."""
    installation.make_days(_day(2), 3)
    alice, charlie = installation.tenant(), installation.tenant()
    installation.sql("SELECT setval('event_positions', 100)")
    for tenant, age in ((alice, 2), (charlie, 2), (alice, 2), (alice, 0)):
        installation.store(tenant, noon(_day(age)), count=2)
    return installation


def _marks(installation: Installation) -> list[tuple[date, int, int]]:
    return installation.sql(_MARKS)


def _read_after(installation: Installation, position: int) -> list[date]:
    days = installation.sql("SELECT (begins AT TIME ZONE 'UTC')::date FROM event_days_after(%s)", position)
    return [day for (day,) in days]


def test_closed_days_have_their_first_and_last_position_and_today_has_none(three_days: Installation) -> None:
    assert mark_closed_days(three_days.owner, now=noon(_TODAY)) == TaskResult(2)

    assert _marks(three_days) == [(_day(2), 101, 106), (_day(1), 0, 0)]
    assert mark_closed_days(three_days.owner, now=noon(_TODAY)) == TaskResult(0)


def test_a_follower_reads_the_days_that_hold_what_it_has_not_read(three_days: Installation) -> None:
    mark_closed_days(three_days.owner, now=noon(_TODAY))

    assert [_read_after(three_days, position) for position in (0, 105, 106)] == [
        [_TODAY, _day(2)],
        [_TODAY, _day(2)],
        [_TODAY],
    ]


def test_a_day_is_closed_an_hour_after_its_end(three_days: Installation) -> None:
    midnight = datetime(2025, 3, 30, tzinfo=UTC)

    mark_closed_days(three_days.owner, now=midnight + timedelta(minutes=59))
    assert [day for day, *_ in _marks(three_days)] == [_day(2)]
    mark_closed_days(three_days.owner, now=midnight + timedelta(minutes=61))
    assert [day for day, *_ in _marks(three_days)] == [_day(2), _day(1)]


def test_it_stops_between_two_days_and_goes_on(three_days: Installation) -> None:
    looks = iter([False, True])

    first = mark_closed_days(three_days.owner, now=noon(_TODAY), is_over=lambda: next(looks))
    assert first == TaskResult(1, has_more=True)
    assert mark_closed_days(three_days.owner, now=noon(_TODAY)) == TaskResult(1)


def test_marks_of_days_that_come_again_are_deleted(three_days: Installation) -> None:
    """As after a clock that was two days ahead."""
    mark_closed_days(three_days.owner, now=noon(_TODAY) + timedelta(days=2))
    assert [day for day, *_ in _marks(three_days)] == [_day(2), _day(1), _TODAY]

    assert mark_closed_days(three_days.owner, now=noon(_day(1))) == TaskResult(2)
    assert [day for day, *_ in _marks(three_days)] == [_day(2)]


def test_a_dropped_day_has_none(three_days: Installation) -> None:
    mark_closed_days(three_days.owner, now=noon(_TODAY))
    drop_old_partitions(three_days.owner, now=noon(_TODAY), days=1)
    assert [day for day, *_ in _marks(three_days)] == [_day(1)]

    three_days.sql(f"DROP TABLE {Partition(_day(1)).name}")
    assert mark_closed_days(three_days.owner, now=noon(_TODAY)) == TaskResult(1)
    assert _marks(three_days) == []


class TestLateEvents:
    """A mark is final, so nothing may come after it."""

    @pytest.fixture(name="group")
    def _group(self, three_days: Installation) -> Iterator[psycopg.Connection]:
        """A group that began a second before midnight of yesterday, and has not come to its commit."""
        began = datetime(2025, 3, 29, 23, 59, 59, tzinfo=UTC)
        with psycopg.connect(three_days.settings.database_url) as group:
            group.execute(
                "SELECT pg_advisory_xact_lock_shared(x'6c75000000000000'::bigint | %s)", [int(began.timestamp() * 1000)]
            )
            yield group

    def test_a_day_of_which_a_group_is_under_way_is_not_marked(
        self, three_days: Installation, group: psycopg.Connection
    ) -> None:
        mark_closed_days(three_days.owner, now=noon(_TODAY))
        assert [day for day, *_ in _marks(three_days)] == [_day(2)]

        group.commit()
        mark_closed_days(three_days.owner, now=noon(_TODAY))
        assert [day for day, *_ in _marks(three_days)] == [_day(2), _day(1)]

    def test_all_is_below_the_horizon_up_to_the_group_that_began_first(
        self, three_days: Installation, group: psycopg.Connection
    ) -> None:
        began = datetime(2025, 3, 29, 23, 59, 59, tzinfo=UTC)
        with three_days.owner.connection() as connection:
            assert oldest_unfinished(connection) == began
            assert complete_until(connection, noon(_day(1)), noon(_TODAY)) == began
            group.commit()
            assert oldest_unfinished(connection) is None
            assert complete_until(connection, noon(_day(1)), noon(_TODAY)) == noon(_TODAY)

    def test_none_is_marked_while_a_former_default_partition_may_hold_its_events(
        self, three_days: Installation
    ) -> None:
        three_days.sql("CREATE TABLE events_default_former (LIKE events)")

        assert mark_closed_days(three_days.owner, now=noon(_TODAY)) == TaskResult(0)
        assert _marks(three_days) == []
