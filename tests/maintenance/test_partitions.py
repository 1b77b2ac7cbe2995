"""Making partitions ahead: by days in UTC, once, at once, and never at the price of an event."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import psycopg
import pytest

from app.config import Settings
from app.context import Context
from app.database.engine import Database
from app.maintenance.partitions import make_event_partitions
from tests.support.databases import close, copied_database
from tests.support.people import rows

# The app's role sees a workspace at a time, or all if it says so.
_ALL_WORKSPACES = "-c lariba.all_workspaces=on"
_DAY = date(2031, 3, 30)

pytestmark = pytest.mark.wiring


@pytest.fixture(name="fresh")
def _fresh(server_url: str, migrated: Settings) -> Iterator[Settings]:
    """A database of this test's own, in a time zone where this day has 23 hours."""
    with copied_database(server_url, migrated) as settings:
        with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
            name = owner.info.dbname
            owner.execute(f"ALTER DATABASE {name} SET timezone = 'Europe/Berlin'")
        yield settings


@pytest.fixture(name="database")
def _database(fresh: Settings) -> Iterator[Database]:
    database = Database(fresh.database_url, pool_size=6, lock_timeout_seconds=10)
    yield database
    close(database)


def _bounds(settings: Settings) -> dict[str, tuple[str, str]]:
    with psycopg.connect(settings.admin_database_url) as owner:
        owner.execute("SET timezone = 'UTC'")
        found = owner.execute(
            "SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname LIKE 'events\\_2031%' "
            "AND relkind = 'r'"
        ).fetchall()
    return {name: (bound.split("'")[1], bound.split("'")[3]) for name, bound in found}


def test_migrating_makes_today_and_the_coming_week(context: Context) -> None:
    names = {row.name for row in rows(context, "SELECT relname AS name FROM pg_class WHERE relname LIKE 'events_2%'")}

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
    with psycopg.connect(fresh.database_url, autocommit=True, options=_ALL_WORKSPACES) as app:
        app.execute(
            "INSERT INTO events SELECT 1, %s, gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'",
            (datetime.combine(_DAY, datetime.min.time(), UTC),),
        )
    assert make_event_partitions(database, first_day=_DAY, days=2) == 1

    assert set(_bounds(fresh)) == {"events_20310331"}


def test_inserts_go_on_while_partitions_are_made(fresh: Settings, database: Database) -> None:
    with psycopg.connect(fresh.database_url, options=_ALL_WORKSPACES) as app:
        app.execute("INSERT INTO events SELECT 1, now(), gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(), '{}'")
        assert make_event_partitions(database, first_day=_DAY, days=1) == 1
        app.execute("INSERT INTO events SELECT 1, now(), gen_random_uuid(), 1, 1, 1, 1, 'f', 'a', 'info', now(), '{}'")


def test_who_holds_the_default_partition_is_named(fresh: Settings, database: Database) -> None:
    """Behind a wait for it ingest would wait too, as long as today has no partition: so the wait is short."""
    with psycopg.connect(fresh.admin_database_url, application_name="nightly-report") as reader:
        reader.execute("SELECT count(*) FROM events")
        with pytest.raises(psycopg.errors.LockNotAvailable, match=rf"pid {reader.info.backend_pid} \(nightly-report"):
            make_event_partitions(database, first_day=_DAY, days=2)
    assert make_event_partitions(database, first_day=_DAY, days=2) == 2


def test_none_is_made_beside_a_full_default_partition(fresh: Settings, database: Database) -> None:
    """PostgreSQL would look through all of it for each, with ingest shut out."""
    with psycopg.connect(fresh.admin_database_url, autocommit=True) as owner:
        owner.execute(
            "INSERT INTO events SELECT 1, '2031-01-01Z', gen_random_uuid(), 1, 1, 1, 1, 'e', 'a', 'info', now(),"
            " jsonb_build_object('text', repeat(md5(n::text), 30)) FROM generate_series(1, 18000) AS n"
        )
        assert make_event_partitions(database, first_day=_DAY, days=2) == 0
        owner.execute("TRUNCATE events_default")
    assert make_event_partitions(database, first_day=_DAY, days=2) == 2
