"""An installation with twenty past days into which a test stores events, because it sets PostgreSQL's clock."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

import psycopg
from flask import Flask
from sqlalchemy import event

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.database.migrate import migrate
from app.factory import create_app
from tests.support.database_clock import make_clock_settable
from tests.support.databases import close, fresh_database

DAYS: Final = 20
"""All of them over, so that a mark on one counts."""
MARK_CLOSED_DAYS: Final = """
    INSERT INTO event_days SELECT received_at::date, min(position), max(position) FROM events
    WHERE received_at < date_trunc('day', now(), 'UTC') GROUP BY 1
    ON CONFLICT (day) DO UPDATE SET first_position = excluded.first_position, last_position = excluded.last_position
"""
"""As the worker does. So many open days would hold the skip index up."""
_FIRST: Final = datetime.combine(datetime.now(UTC), time(12), UTC) - timedelta(days=DAYS + 1)
_CLOSE: Final = """
    INSERT INTO event_days
    SELECT received_at::date, min(position), max(position) FROM events WHERE received_at::date = ANY (%s) GROUP BY 1
"""


@contextmanager
def app_with_past_days(server_url: str, credentials: Credentials) -> Iterator[Flask]:
    """On a database of its own, with a partition for each day."""
    with fresh_database(server_url) as settings:
        migrate(settings)
        make_clock_settable(lambda statement: as_owner(settings, statement))
        as_owner(settings, "SELECT make_event_partitions(%s, %s)", _FIRST.date(), DAYS)
        app = create_app(settings, credentials=credentials)
        yield app
        close(app.extensions[EXTENSION].database)
        close(app.extensions[EXTENSION].reading)


@contextmanager
def emptied(app: Flask) -> Iterator[Context]:
    """Without events in the end: what one test leaves in a day would lower the first position that the next one's mark
    says.
    """
    context = app.extensions[EXTENSION]
    assert isinstance(context, Context)
    yield context
    as_owner(context.settings, "TRUNCATE events, event_days, consumers")


def as_owner(settings: Settings, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(settings.admin_database_url, autocommit=True) as owner:
        cursor = owner.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def on_day(day: int, hour: int = 0) -> datetime:
    """Noon of one of the days, 0 to 19, or so many hours later."""
    return _FIRST + timedelta(days=day, hours=hour)


def close_days(context: Context, *days: int) -> None:
    """Write down their positions, as the worker does."""
    as_owner(context.settings, _CLOSE, [on_day(day).date() for day in days])


@contextmanager
def locked_days(database: Database) -> Iterator[list[int]]:
    """How many days each transaction has locked at its end."""
    counts: list[int] = []

    def count(connection: Any) -> None:
        cursor = connection.connection.cursor()
        cursor.execute(
            "SELECT count(DISTINCT relname) FROM pg_locks JOIN pg_class ON pg_class.oid = relation"
            " WHERE pid = pg_backend_pid() AND relname ~ '^events_[0-9]{8}$'"
        )
        counts.append(cursor.fetchone()[0])

    event.listen(database.engine, "commit", count)
    yield counts
    event.remove(database.engine, "commit", count)
