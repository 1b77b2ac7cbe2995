"""Copying events in order of receipt, beside transactions that commit in another order."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql

from app.config import Settings
from app.maintenance.event_copy import LOWEST_UID, EventCopy, Position

_BEGIN = datetime(2031, 3, 30, tzinfo=UTC)
_LAST = _BEGIN + timedelta(hours=1)
_TABLE = "CREATE TEMPORARY TABLE {} (received_at timestamptz, event_uid uuid, PRIMARY KEY (received_at, event_uid))"


@pytest.fixture(name="connection")
def _connection(settings: Settings) -> Iterator[psycopg.Connection]:
    """With a table that is copied, `source`, into another, `target`."""
    with psycopg.connect(settings.admin_database_url, autocommit=True) as connection:
        for name in ("source", "target"):
            connection.execute(sql.SQL(_TABLE).format(sql.Identifier(name)))
        yield connection


@pytest.fixture(name="copy")
def _copy(connection: psycopg.Connection) -> EventCopy:
    """The copying of a day, up to an event that was received at _LAST."""
    copy = EventCopy(
        sql.Identifier("source"),
        sql.Identifier("target"),
        _BEGIN,
        _BEGIN + timedelta(days=1),
        after=Position(_BEGIN, LOWEST_UID),
    )
    _receive(connection, _LAST)
    assert copy.copy_batch(connection, 10) == 1
    return copy


def _receive(connection: psycopg.Connection, *moments: datetime) -> None:
    for moment in moments:
        connection.execute("INSERT INTO source VALUES (%s, %s)", [moment, uuid4()])


def _rows(connection: psycopg.Connection, table: str) -> list[tuple[datetime, UUID]]:
    return connection.execute(sql.SQL("SELECT * FROM {} ORDER BY 1, 2").format(sql.Identifier(table))).fetchall()


@pytest.mark.parametrize("late", [timedelta(microseconds=1), timedelta(seconds=1), timedelta(seconds=3)])
def test_an_event_that_committed_behind_the_last_copied_one_is_copied_with_the_rest(
    connection: psycopg.Connection, copy: EventCopy, late: timedelta
) -> None:
    """It would be seen nowhere from the swap of the tables until the former one is emptied."""
    _receive(connection, _LAST - late, _LAST + timedelta(seconds=1))

    copy.copy_rest(connection, now=_LAST + timedelta(seconds=2))

    assert _rows(connection, "target") == _rows(connection, "source")
    assert copy.copied == 3


def test_of_a_day_that_is_over_the_rest_alone_is_copied(connection: psycopg.Connection, copy: EventCopy) -> None:
    """Writers wait meanwhile, and an import may have put millions of events into its last seconds."""
    _receive(connection, _LAST - timedelta(seconds=1), _LAST + timedelta(seconds=1))

    copy.copy_rest(connection, now=_LAST + timedelta(days=1))

    assert [moment for moment, _ in _rows(connection, "target")] == [_LAST, _LAST + timedelta(seconds=1)]


def test_the_rest_of_a_day_takes_nothing_of_the_day_before(connection: psycopg.Connection, copy: EventCopy) -> None:
    midnight = EventCopy(copy.source, copy.target, _BEGIN, copy.end, after=Position(_BEGIN, LOWEST_UID))
    _receive(connection, _BEGIN - timedelta(seconds=1), _BEGIN + timedelta(seconds=1))

    midnight.copy_rest(connection, now=_BEGIN + timedelta(seconds=2))

    assert [moment for moment, _ in _rows(connection, "target")] == [_BEGIN + timedelta(seconds=1), _LAST]
