"""A process whose clock is wrong: what it answers is right, and it says by how far it is off."""

from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask
from sqlalchemy.orm import Session

from app.context import Context
from app.database import clock
from app.database.clock import Clocks
from app.web import health
from app.web.health import check

_YEAR = timedelta(days=366)

pytestmark = pytest.mark.wiring


@pytest.mark.parametrize(
    ("skew", "says"),
    [
        (timedelta(), "ok"),
        (timedelta(minutes=4), "ok"),
        (timedelta(hours=25), "this machine's is 1 day, 1:00:00 ahead of PostgreSQL's"),
        (-_YEAR, "this machine's is 366 days, 0:00:00 behind PostgreSQL's"),
    ],
)
def test_the_check_says_how_far_the_clocks_are_apart(context: Context, skew: timedelta, says: str) -> None:
    checks = check(context.database, needs_row_security=True, own_clock=lambda: datetime.now(UTC) + skew)

    assert checks["clock"] == says


def test_a_wrong_clock_keeps_no_traffic_away(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(session: Session, *_: object) -> Clocks:
        clocks = clock.read_clocks_in(session)
        return clocks._replace(own=clocks.own + _YEAR)

    monkeypatch.setattr(health, "read_clocks_in", read)
    answer = app.test_client().get("/readyz")
    ready = answer.get_json()

    assert (answer.status_code, ready["status"]) == (200, "ok")
    assert ready["checks"]["clock"].startswith("this machine's is 366 days")
