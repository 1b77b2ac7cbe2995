"""Making partitions ahead: by days in UTC, once, at once, and never at the price of an event."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from app.config import Settings
from app.context import Context
from app.database import Database
from app.maintenance.partitions import make_event_partitions, settle_stranded_events
from app.schema import migrate
from tests.conftest import fresh_database
from tests.maintenance.conftest import Installation, noon
from tests.people import rows
from tests.servers import OUR_LOCKS
from tests.waiting import wait_until

# The app's role sees a workspace at a time, or all if it says so.
_EVERYWHERE = "-c lariba.everywhere=on"
_DAY = date(2031, 3, 30)

pytestmark = pytest.mark.wiring


@pytest.fixture(name="fresh")
def _fresh(server_url: str) -> Iterator[Settings]:
    """A database of this test's own, in a time zone where this day has 23 hours."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
            name = owner.info.dbname
            owner.execute(f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")
        yield settings


@pytest.fixture(name="database")
def _database(fresh: Settings) -> Iterator[Database]:
    database = Database(fresh.database_url, pool_size=6, lock_timeout_seconds=10)
    yield database
    database.engine.dispose()


def _bounds(settings: Settings) -> dict[str, tuple[str, str]]:
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute("SET timezone = 'UTC'")
        found = owner.execute(
            "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname LIKE 'events\\_2031%' "
            "AND relkind = 'r'"
        ).fetchall()
    return {name: (bound.split("'")[1], bound.split("'")[3]) for name, bound in found}


def test_migrating_makes_today_and_the_coming_week(house: Context) -> None:
    names = {row.name for row in rows(house, "SELECT relname AS name FROM pg_class WHERE relname LIKE 'events_2%'")}

    today = datetime.now(UTC).date()
    assert names >= {f"events_{today + timedelta(days=n):%Y%m%d}" for n in range(7)}


def test_a_partition_holds_one_day_in_utc_whatever_the_servers_time_zone(fresh: Settings, database: Database) -> None:
    assert make_event_partitions(database, first_day=_DAY, days=2) == 2

    assert _bounds(fresh) == {
        "events_20310330": ("2031-03-30 00:00:00+00", "2031-03-31 00:00:00+00"),
        "events_20310331": ("2031-03-31 00:00:00+00", "2031-04-01 00:00:00+00"),
    }


def test_workers_that_make_them_at_once_make_each_once(fresh: Settings, database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda _: make_event_partitions(database, first_day=_DAY, days=3), range(6)))

    assert sum(made) == len(_bounds(fresh)) == 3


def test_a_day_whose_events_are_already_in_the_default_partition_is_left_there(
    fresh: Settings, database: Database
) -> None:
    with psycopg.connect(fresh.database_url, autocommit=True, options=_EVERYWHERE) as app:
        app.execute(
            "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'",
            (datetime.combine(_DAY, datetime.min.time(), UTC),),
        )
    assert make_event_partitions(database, first_day=_DAY, days=2) == 1

    assert set(_bounds(fresh)) == {"events_20310331"}


def test_inserts_go_on_while_partitions_are_made(fresh: Settings, database: Database) -> None:
    with psycopg.connect(fresh.database_url, options=_EVERYWHERE) as app:
        app.execute("INSERT INTO events SELECT 1, now(), gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'")
        assert make_event_partitions(database, first_day=_DAY, days=1) == 1
        app.execute("INSERT INTO events SELECT 1, now(), gen_random_uuid(), 1, 1, 1, 1, 'f', 'a', 'info', now(), '{}'")


class TestStrandedEvents:
    """What the default partition has caught."""

    @pytest.fixture(name="stranded")
    def _stranded(self, installation: Installation) -> Installation:
        """Events of four days without partitions, the last of them today."""
        alice = installation.tenant()
        for age in range(4):
            installation.store(alice, noon(_DAY - timedelta(days=age)), count=age + 1)
        return installation

    def test_those_of_closed_days_get_partitions_and_those_of_today_stay(self, stranded: Installation) -> None:
        before = stranded.sql("SELECT * FROM events ORDER BY event_uid")

        assert settle_stranded_events(stranded.owner, now=noon(_DAY)) == 2 + 3 + 4

        assert stranded.sql("SELECT * FROM events ORDER BY event_uid") == before
        assert stranded.sql("SELECT DISTINCT received_at FROM events_default") == [(noon(_DAY),)]
        assert {day for day in stranded.days() if day.year == _DAY.year} == {
            _DAY - timedelta(days=age) for age in (1, 2, 3)
        }

    def test_a_second_run_finds_nothing(self, stranded: Installation) -> None:
        settle_stranded_events(stranded.owner, now=noon(_DAY))

        assert settle_stranded_events(stranded.owner, now=noon(_DAY)) == 0

    def test_the_next_day_takes_the_rest(self, stranded: Installation) -> None:
        settle_stranded_events(stranded.owner, now=noon(_DAY))

        assert settle_stranded_events(stranded.owner, now=noon(_DAY + timedelta(days=1))) == 1
        assert stranded.sql("SELECT count(*) FROM events_default") == [(0,)]

    @pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/Los_Angeles"])
    def test_a_day_is_a_day_in_utc(self, installation: Installation, zone: str) -> None:
        alice = installation.tenant()
        edges = [datetime(2031, 3, 28, tzinfo=UTC), datetime(2031, 3, 28, 23, 59, 59, 999_999, UTC)]
        for at in edges:
            installation.store(alice, at)
        installation.sql(f"ALTER ROLE {installation.owner._arguments['user']} SET timezone = '{zone}'")  # noqa: SLF001

        settle_stranded_events(installation.owner, now=noon(_DAY))
        assert {day for day in installation.days() if day.year == _DAY.year} == {edges[0].date()}
        assert installation.stored_on(edges[0].date()) == 2

    def test_readers_see_each_event_once_all_the_while(self, stranded: Installation) -> None:
        with psycopg.connect(stranded.settings.admin_database_url) as reader:
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            assert reader.execute("SELECT count(*) FROM event_ledger").fetchone() == (0,)
            settle_stranded_events(stranded.owner, now=noon(_DAY))
            # It began before; it looks now.
            seen = reader.execute("SELECT count(*) FROM events").fetchone()
        assert (seen, stranded.sql("SELECT count(*) FROM events")) == ((10,), [(10,)])

    def test_an_event_that_comes_in_late_leaves_its_day_to_the_next_run(self, installation: Installation) -> None:
        yesterday = noon(_DAY - timedelta(days=1))
        installation.store(installation.tenant(), yesterday)
        late = "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'"
        with psycopg.connect(installation.settings.admin_database_url) as writer, ThreadPoolExecutor(1) as pool:
            writer.execute(late, [yesterday])
            settling = pool.submit(settle_stranded_events, installation.owner, now=noon(_DAY))
            wait_until(lambda: installation.sql(f"SELECT 1 FROM {OUR_LOCKS} NOT granted"))
            writer.commit()
            assert settling.result() == 0
        assert installation.stored_on(yesterday.date()) == 2

        assert settle_stranded_events(installation.owner, now=noon(_DAY)) == 2
