"""Replayed.has(): what a standby must say of itself before it may answer."""

from datetime import UTC, datetime

import pytest

from app.database.replication import LogMark, Replayed

_STARTED_AT = datetime(2026, 1, 1, tzinfo=UTC)
_MARK = LogMark("7 16384 2200 app", 2, 100)


@pytest.mark.parametrize(
    ("is_standby", "database", "timeline", "place", "has"),
    [
        (True, _MARK.database, 2, 100, True),
        (True, _MARK.database, 2, 101, True),
        (True, _MARK.database, 2, 99, False),
        # It may have replayed what the new primary never had.
        (True, _MARK.database, 1, 200, False),
        (True, _MARK.database, 3, 200, False),
        (True, "8 16384 2200 app", 2, 200, False),
        (True, "7 16385 2200 app", 2, 200, False),
        (False, _MARK.database, 2, 200, False),
    ],
)
def test_a_server_has_a_mark_if_it_is_a_standby_that_has_replayed_that_log_to_there(
    *, is_standby: bool, database: str, timeline: int, place: int, has: bool
) -> None:
    replayed = Replayed(
        is_standby=is_standby,
        is_paused=False,
        database=database,
        timeline=timeline,
        place=place,
        started_at=_STARTED_AT,
    )

    assert replayed.has(_MARK) == has
