"""Lets a test say what time it is in PostgreSQL, for the ingest function and in a database of the test's own."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

_FUNCTION = "store_events(jsonb, jsonb, bigint[], interval, text, boolean)"
_NOW = "coalesce(nullif(current_setting('tests.now', true), '')::timestamptz, clock_timestamp())"


def make_clock_settable(sql: Callable[..., list[tuple[Any, ...]]]) -> None:
    """From now on transactions that have `set_clock` store at that moment; `sql` runs a statement as the owner."""
    ((definition,),) = sql(f"SELECT pg_get_functiondef('{_FUNCTION}'::regprocedure)")
    assert "clock_timestamp()" in definition
    sql(definition.replace("clock_timestamp()", _NOW))


def set_clock(session: Session, now: datetime) -> None:
    """What time it is for the rest of the transaction."""
    session.execute(text("SELECT set_config('tests.now', :now, true)"), {"now": now.isoformat()})
