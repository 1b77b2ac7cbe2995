"""The skip index of payloads: built soon, for whoever has enough events, in turns, and without looks in vain."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from app.database.engine import TenantScope
from app.errors import StorageUnavailable
from app.maintenance import segments
from app.maintenance.event_days import mark_closed_days
from app.maintenance.segments import TASK_NAME, Patience, build_event_segments
from app.maintenance.task import TaskResult
from app.maintenance.usage import fold_usage
from tests.support.counting_events import receive
from tests.support.installation import Installation, noon
from tests.support.people import Tenant, execute

_DAY = date(2025, 3, 30)
_NOW = datetime(2025, 3, 30, 12, 30, tzinfo=UTC)
_SIZE = 10
_SEGMENTS = "SELECT project_id, events FROM event_segments ORDER BY last_position"

pytestmark = pytest.mark.wiring


@pytest.fixture(name="day")
def _day(installation: Installation) -> Installation:
    installation.make_days(_DAY - timedelta(days=1), 2)
    return installation


def _build(installation: Installation, now: datetime = _NOW, **options: Any) -> TaskResult:
    return build_event_segments(installation.database, now=now, size=_SIZE, rests=0, **options)


def _succeeded(installation: Installation, at: datetime, *, has_more: bool = False) -> None:
    execute(
        installation.context,
        "INSERT INTO maintenance_tasks (name, succeeded_at, has_more) VALUES (:name, :at, :more)"
        " ON CONFLICT (name) DO UPDATE SET succeeded_at = :at, has_more = :more",
        name=TASK_NAME,
        at=at,
        more=has_more,
    )


@pytest.fixture(name="asked")
def _asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For which projects segments are asked for, in order."""
    asked: list[int] = []
    behind = segments._projects_behind  # noqa: SLF001

    def look(*arguments: Any) -> list[int]:
        found = behind(*arguments)
        asked.extend(found)
        return found

    monkeypatch.setattr(segments, "_projects_behind", look)
    return asked


def test_each_project_with_enough_events_gets_its_segments_folded_or_not(day: Installation) -> None:
    alice, charlie = day.tenant(), day.tenant()
    receive(day, alice, _NOW - timedelta(hours=1), count=14)
    fold_usage(day.database)
    receive(day, alice, _NOW, count=8)
    receive(day, charlie, _NOW, count=9)

    assert _build(day) == TaskResult(2)
    assert day.sql(_SEGMENTS) == [(alice.project_row, _SIZE)] * 2
    assert _build(day) == TaskResult(0)


def test_none_is_built_while_a_former_default_partition_may_hold_its_events(day: Installation) -> None:
    """No search would find them: they come back with positions of a segment that does not have them."""
    alice = day.tenant()
    receive(day, alice, _NOW, count=_SIZE)
    day.sql("CREATE TABLE events_default_former (LIKE events)")

    assert _build(day) == TaskResult(0, has_more=True)
    assert day.sql(_SEGMENTS) == []
    day.sql("DROP TABLE events_default_former")
    assert _build(day) == TaskResult(1)


def test_they_hold_the_words_of_the_payloads(day: Installation) -> None:
    alice = day.tenant()
    receive(day, alice, _NOW, count=_SIZE, payload='{"reason": "card_declined"}')
    _build(day)

    token = "SELECT tokens @> ARRAY[event_token(%s, project_id)] FROM event_segments"
    assert [day.sql(token, word) for word in ("declined", "reason", "accepted")] == [[(True,)], [(True,)], [(False,)]]


def test_they_know_the_kind_and_the_position_of_each_event(day: Installation) -> None:
    alice = day.tenant()
    receive(day, alice, _NOW, count=_SIZE)
    _build(day)

    known = (
        "SELECT unnest(event_positions[coalesce(kind_ends[kind - 1], 0) + 1 : kind_ends[kind]]), kind_types[kind],"
        " kind_severities[kind], kind_sources[kind], kind_keys[kind], kind_environments[kind]"
        " FROM event_segments, generate_subscripts(kind_ends, 1) AS kind ORDER BY 1"
    )
    stored = "SELECT position, event_type, severity, source_id, source_key_id, environment_id FROM events ORDER BY 1"
    assert day.sql(known) == day.sql(stored)
    assert day.sql("SELECT cardinality(kind_types) FROM event_segments") == [(6,)]


def test_projects_take_turns_and_the_longest_behind_comes_first(day: Installation) -> None:
    alice, charlie = day.tenant(), day.tenant()
    receive(day, charlie, _NOW - timedelta(hours=2), count=_SIZE)
    _build(day)
    receive(day, charlie, _NOW, count=20)
    receive(day, alice, _NOW, count=20)
    built: list[int] = []

    def note() -> bool:
        built[:] = [project for project, _ in day.sql(_IN_ORDER)]
        return len(built) == 4

    assert _build(day, is_over=note) == TaskResult(3, has_more=True)
    assert built == [charlie.project_row, alice.project_row, charlie.project_row, alice.project_row]


_IN_ORDER = "SELECT project_id, events FROM event_segments ORDER BY xmin::text::bigint"


class TestLargePayloads:
    """A segment of a thousand of them would take a minute."""

    def test_a_project_with_such_gets_smaller_segments(self, day: Installation) -> None:
        alice = day.tenant()
        receive(day, alice, _NOW, count=_SIZE)
        _stand_still(day, "size > 1")

        assert _build(day, patience=Patience(usual=0.1)) == TaskResult(_SIZE)
        assert day.sql(_SEGMENTS) == [(alice.project_row, 1)] * _SIZE

    def test_what_takes_too_long_even_for_one_event_is_a_failure(self, day: Installation) -> None:
        receive(day, day.tenant(), _NOW, count=_SIZE)
        _stand_still(day, "true")

        with pytest.raises(StorageUnavailable):
            _build(day, patience=Patience(0.1, 0.2))


def _stand_still(installation: Installation, condition: str) -> None:
    """From now on building takes a minute if `condition` holds."""
    function = "build_event_segment(bigint, integer)"
    ((definition,),) = installation.sql(f"SELECT pg_get_functiondef('{function}'::regprocedure)")
    assert definition.count("BEGIN\n") == 1
    installation.sql(definition.replace("BEGIN\n", f"BEGIN PERFORM pg_sleep(60) WHERE {condition};\n"))


class TestWhoIsAskedFor:
    def test_no_project_that_has_too_few_events(self, day: Installation, asked: list[int]) -> None:
        alice = day.tenant()
        receive(day, alice, _NOW, count=19)
        fold_usage(day.database)
        _build(day)
        asked.clear()

        _build(day)
        assert asked == []
        receive(day, alice, _NOW, count=1)
        _build(day)
        assert asked == [alice.project_row]

    def test_none_that_has_sent_nothing_since_a_run_that_had_no_more_to_do(
        self, day: Installation, asked: list[int]
    ) -> None:
        receive(day, day.tenant(), _NOW - timedelta(hours=5), count=_SIZE)
        fold_usage(day.database)

        _succeeded(day, _NOW - timedelta(hours=3))
        assert (_build(day), asked) == (TaskResult(0), [])

    @pytest.mark.parametrize(
        ("succeeded_at", "has_more"),
        [(_NOW - timedelta(hours=6), False), (_NOW - timedelta(minutes=1), True), (_NOW + timedelta(days=1), False)],
        ids=["since then", "it stopped for lack of time", "the clock was set back"],
    )
    def test_all_that_may_have_been_missed(self, day: Installation, succeeded_at: datetime, *, has_more: bool) -> None:
        receive(day, day.tenant(), _NOW - timedelta(hours=5), count=_SIZE)
        fold_usage(day.database)

        _succeeded(day, succeeded_at, has_more=has_more)
        assert _build(day) == TaskResult(1)

    def test_one_whose_last_segment_a_clock_has_put_into_the_future(self, day: Installation) -> None:
        alice = day.tenant()
        receive(day, alice, _NOW, count=_SIZE)
        _build(day)
        receive(day, alice, _NOW - timedelta(hours=3), count=_SIZE)
        fold_usage(day.database)

        assert _build(day, now=_NOW - timedelta(hours=3)) == TaskResult(1)


def test_a_segment_holds_no_event_above_the_horizon(day: Installation) -> None:
    """Of a group that has its position and not yet committed, and of all that come after it."""
    alice = day.tenant()
    receive(day, alice, _NOW, count=_SIZE)
    with day.database.transaction(TenantScope.ALL) as group:
        _lock_as_ingest_does(group, day, alice)
        receive(day, alice, _NOW, count=_SIZE)
        assert _build(day) == TaskResult(1)
    assert _build(day) == TaskResult(1)


def _lock_as_ingest_does(group: Any, installation: Installation, tenant: Tenant) -> None:
    group.execute(
        text(
            "SELECT pg_advisory_xact_lock_shared(x'6c72000000000000'::bigint | :workspace),"
            " pg_advisory_xact_lock_shared(x'6c74000000000000'::bigint | :place)"
        ),
        {
            "workspace": tenant.workspace_row,
            "place": installation.sql("SELECT last_value FROM event_positions")[0][0],
        },
    )


class TestManyDays:
    """More than one statement may read: a project that is new, or has few events a day, gets its segments too."""

    @pytest.mark.parametrize(("a_day", "today", "held"), [(0, _SIZE, _SIZE), (1, 0, _SIZE)], ids=["new", "few events"])
    def test_a_project_beside_one_with_events_on_twenty_days(
        self, installation: Installation, a_day: int, today: int, held: int
    ) -> None:
        installation.make_days(_DAY - timedelta(days=19), 20)
        alice, charlie = installation.tenant(), installation.tenant()
        for age in range(19, -1, -1):
            receive(installation, alice, noon(_DAY - timedelta(days=age)))
            receive(installation, charlie, noon(_DAY - timedelta(days=age)), count=a_day)
        receive(installation, charlie, noon(_DAY), count=today)
        mark_closed_days(installation.owner, now=noon(_DAY))

        _build(installation)
        found = "SELECT coalesce(sum(events), 0)::int FROM event_segments WHERE project_id = %s"
        assert installation.sql(found, charlie.project_row)[0][0] >= held
