"""The page of one who is near the end of a feed without a filter, in four statements instead of seven.

Feed.page() has to read any feed in bounded memory and locks, and most of what a page costs is its statements: each is
parsed and planned anew. Those who follow read a few events of today, again and again.
"""

from functools import lru_cache
from typing import Any, Final

from sqlalchemy import Row, TextClause, text

from app.events.feed.cursors import Place
from app.events.feed.domain import Page
from app.events.feed.statements import read_days
from app.events.statements import DAYS_AT_ONCE
from app.events.transactions import FewDays
from app.events.view import ShownEvent, shown_event

BYTES_MAX: Final = 65_536
"""Of the payloads of a page that is read so."""
_BEGIN: Final = text("""
    SELECT place, (SELECT id FROM projects WHERE workspace_id = :workspace AND public_id = :project) AS project_row
    FROM event_horizon(:workspace)
""")
_DAY: Final = "received_at >= :begins_{0} AND received_at < :ends_{0}"
# Payloads that are too large together are not unpacked.
_EVENTS: Final = """
WITH page AS MATERIALIZED (
    SELECT * FROM readable_events
    WHERE project_id = :project_row AND position >= :position AND position <= :last
        AND (position > :position OR event_uid > :event_uid) AND ({days})
    ORDER BY position, event_uid LIMIT :limit
)
SELECT position, event_uid, received_at, event_id, event_type, severity, occurred_at,
    CASE WHEN sum(pg_column_size(payload)) OVER (ORDER BY position, event_uid) <= :bytes
        THEN CAST(payload AS text) END AS payload_text,
    (SELECT public_id FROM sources WHERE id = page.source_id) AS source_id,
    (SELECT public_id FROM source_keys WHERE id = page.source_key_id) AS key_id,
    environment.name AS environment, environment.public_id AS environment_id
FROM page LEFT JOIN environments AS environment ON environment.id = page.environment_id
ORDER BY position, event_uid
"""


def read_short_page(transactions: FewDays, workspace_id: int, project_id: str, after: Place, limit: int) -> Page | None:
    """What Feed.page() has; None if that would be no page of few events and small payloads.

    The caller has checked who reads it. Raises as Feed.page() does.
    """
    session = transactions.session()
    horizon, project_row = session.execute(_BEGIN, {"workspace": workspace_id, "project": project_id}).one()
    # Later than the horizon: they see what had been committed by then.
    days = read_days(session, after.position - 1)
    if project_row is None or after.position > horizon or not 0 < len(days) <= DAYS_AT_ONCE:
        return None
    asked: dict[str, Any] = {"project_row": project_row, "last": horizon, "limit": limit, "bytes": BYTES_MAX}
    asked |= after._asdict()
    for number, day in enumerate(days):
        asked |= {f"begins_{number}": day.begins, f"ends_{number}": day.ends}
    rows = transactions.session(days).execute(_events(len(days)), asked).all()
    if not rows or rows[-1].payload_text is None:
        return None
    data = [_shown(row, project_id) for row in rows]
    last = Place(rows[-1].position, rows[-1].event_uid)
    places = [Place(row.position, row.event_uid) for row in rows]
    page = Page(project_row, data, last, is_last=len(rows) < limit, places=places)
    return page if page.payload_bytes <= BYTES_MAX else None


@lru_cache(maxsize=DAYS_AT_ONCE)
def _events(days: int) -> TextClause:
    """Each day is written out: so PostgreSQL knows, when it plans, which partitions it needs."""
    return text(_EVENTS.format(days=" OR ".join(_DAY.format(number) for number in range(days))))


def _shown(row: Row[Any], project_id: str) -> ShownEvent:
    return shown_event(
        row,
        source_id=row.source_id,
        environment=row.environment,
        project_id=project_id,
        environment_id=row.environment_id,
        key_id=row.key_id,
    )
