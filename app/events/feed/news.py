"""Asks for many projects at once whether something can be read that their followers have not read."""

import time
from typing import Final, NamedTuple

from sqlalchemy import BigInteger, column, func, literal, select, table, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Session

from app.events.feed.statements import Day, read_days, within
from app.events.statements import DAYS_AT_ONCE
from app.events.transactions import FewDays

# With its row security, and without the view, which shows one workspace: a statement for each would be hundreds in a
# second. All operators below are leakproof, so the index serves.
_EVENTS: Final = table("events", column("project_id"), column("position"), column("received_at"))
_HORIZONS: Final = text("""
    SELECT workspace, (event_horizon(workspace)).place FROM unnest(CAST(:workspaces AS bigint[])) AS workspace
""")
_POSITION_MAX: Final = (1 << 63) - 1
# A day that gets its first event is found so much later, which happens at midnight.
_DAYS_SECONDS: Final = 1.0


class Watched(NamedTuple):
    """A project, and behind which position its followers wait."""

    workspace_id: int
    project_row: int
    after: int


class News:
    """For one thread."""

    def __init__(self) -> None:
        self._days: list[Day] = []
        self._days_after = 0
        self._days_until = 0.0

    def newest(self, transactions: FewDays, watched: list[Watched]) -> dict[int, int]:
        """The highest position that can be read of each project that has one behind its followers.

        First what is stored, which nearly always is nothing, and then up to where it can be read: that costs a look at
        all of the server's locks for each workspace.
        """
        days = self._open_days(transactions.session(), min(each.after for each in watched))
        stored = _newest(transactions, days, [(*each[1:], _POSITION_MAX) for each in watched])
        if not stored:
            return {}
        fresh = [each for each in watched if each.project_row in stored]
        workspaces = sorted({each.workspace_id for each in fresh})
        session = transactions.session()
        horizons = {row.workspace: row.place for row in session.execute(_HORIZONS, {"workspaces": workspaces})}
        return _newest(transactions, days, [(*each[1:], horizons[each.workspace_id]) for each in fresh])

    def _open_days(self, session: Session, after: int) -> list[Day]:
        if time.monotonic() > self._days_until or after < self._days_after:
            self._days, self._days_after = read_days(session, after), after
            self._days_until = time.monotonic() + _DAYS_SECONDS
        return self._days


def _newest(transactions: FewDays, days: list[Day], asked: list[tuple[int, int, int]]) -> dict[int, int]:
    """The highest position of each project that lies behind one and not behind another."""
    found: dict[int, int] = {}
    for first in range(0, len(days), DAYS_AT_ONCE):
        part = days[first : first + DAYS_AT_ONCE]
        projects, afters, lasts = (literal(list(each), ARRAY(BigInteger)) for each in zip(*asked, strict=True))
        rows = func.unnest(projects, afters, lasts).table_valued("project", "after", "last").render_derived("asked")
        newest = (
            select(_EVENTS.c.position)
            .where(
                _EVENTS.c.project_id == rows.c.project,
                _EVENTS.c.position > rows.c.after,
                _EVENTS.c.position <= rows.c.last,
                within(_EVENTS.c.received_at, part),
            )
            .order_by(_EVENTS.c.position.desc())
            .limit(1)
            .lateral("newest")
        )
        query = select(rows.c.project, newest.c.position)
        for project, position in transactions.session(part).execute(query):
            found[project] = max(position, found.get(project, 0))
    return found
