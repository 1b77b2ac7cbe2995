"""Builds the skip index of payloads (app/database/sql/event_segments.sql), some seconds behind ingest.

A project is asked for only if it is likely to have enough events for a segment: each look costs PostgreSQL some
milliseconds, and most projects take hours until they have stored as many.
"""

import time
from collections import deque
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import structlog
from psycopg import errors
from sqlalchemy import text

from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable
from app.maintenance.purge import RESTS
from app.maintenance.task import StopCheck, TaskResult, never
from app.models.event_index import SEGMENT_EVENTS

_log = structlog.get_logger()

TASK_NAME: Final = "build_event_segments"
_SMALLER: Final = 10
_DEADLINE_SECONDS: Final = 20.0
# A long step must not make the run last until Celery interrupts it.
_REST_SECONDS_MAX: Final = 2.0
# An event is committed half a minute after its receipt at the latest, and a segment ends before the first that is not.
_SLACK: Final = timedelta(hours=1)


class Patience(NamedTuple):
    """How many seconds a segment may take.

    A thousand events of half a kilobyte take a tenth of a second, a thousand of 256 kB a minute. One project must not
    keep all others waiting, and a segment that holds millions of words would be found by each search.
    """

    usual: float = 4.0
    smallest: float = 15.0
    """Of a single event, with all of its batch: they have one position and stay together, 16 MB at the most."""


_PATIENCE: Final = Patience()
# A run that had nothing more to do has considered all events from before it. Without one all projects are considered:
# at first, after a run that stopped for lack of time, and after a clock was set back.
_CONSIDERED_UNTIL = text("""
    SELECT succeeded_at FROM maintenance_tasks WHERE name = :name AND NOT has_more AND succeeded_at <= :now
""")
# Events since the hour in which the newest segment ends, without those of segments that lie in that hour. So it is
# seldom less than a project has waiting, and never for long: too little only while a clock that was ahead has left a
# segment in the future. Such a project is always asked for. The longest behind come first, so that none waits for ever.
_BEHIND = text("""
    WITH waiting AS (
        SELECT project_id, sum(events) AS events FROM usage_outbox WHERE event_type IS NOT NULL GROUP BY 1
    ),
    newest AS (
        SELECT project_id, ends_at, date_trunc('hour', ends_at, 'UTC') AS hour
        FROM (SELECT project_id FROM event_hours WHERE hour >= :since UNION SELECT project_id FROM waiting) AS active
        LEFT JOIN LATERAL (
            SELECT ends_at FROM event_segments WHERE project_id = active.project_id
            ORDER BY project_id DESC, last_position DESC LIMIT 1
        ) AS segment ON true
    )
    SELECT project_id FROM newest
    WHERE EXISTS (
        SELECT FROM projects JOIN workspaces ON workspaces.id = workspace_id
        WHERE projects.id = project_id AND home IS NULL
    ) AND ( ends_at > :now OR (
        (SELECT coalesce(sum(events), 0) FROM waiting WHERE project_id = newest.project_id)
        + (SELECT coalesce(sum(events), 0) FROM event_hours
           WHERE project_id = newest.project_id AND hour >= coalesce(newest.hour, '-infinity'))
        - (SELECT coalesce(sum(events), 0) FROM (
            SELECT events, begins_at FROM event_segments WHERE project_id = newest.project_id
            ORDER BY project_id DESC, last_position DESC LIMIT 50
        ) AS latest WHERE begins_at >= newest.hour)
    ) >= :size)
    ORDER BY ends_at NULLS FIRST, project_id
""")
_TIMEOUT = text("SELECT set_config('statement_timeout', :milliseconds, true)")
_BUILD = text("SELECT build_event_segment(:project, :size)")
# Of a default partition that was moved it holds what the copies have missed (default_partition.py): events of any
# position, which come back into `events` behind segments that would not have them. Asked behind the look into `events`,
# whose lock keeps the move waiting from then on.
_IS_COMPLETE = text("SELECT to_regclass('events_default_former') IS NULL")


class _MissingEventsError(Exception):
    """Leaves the transaction: what was built may lack events."""


def build_event_segments(
    database: Database,
    *,
    now: datetime,
    size: int = SEGMENT_EVENTS,
    is_over: StopCheck = never,
    rests: float = RESTS,
    patience: Patience = _PATIENCE,
) -> TaskResult:
    """Build the segments of all projects with enough events, in turns; returns how many.

    Each in a transaction of its own, and with a rest after it as long as a purge's. A project of which one takes too
    long gets smaller ones for the rest of the run. None is built while a former default partition is there.
    """
    projects = deque((project, size) for project in _projects_behind(database, now, size))
    built = 0
    while projects:
        if is_over():
            return TaskResult(built, has_more=True)
        project, events = projects.popleft()
        began = time.monotonic()
        try:
            done = _build(database, project, events, patience)
        except _MissingEventsError:
            return TaskResult(built, has_more=True)
        if done is None:
            projects.append((project, max(1, events // _SMALLER)))
        elif done:
            built += 1
            projects.append((project, events))
        time.sleep(min(rests * (time.monotonic() - began), _REST_SECONDS_MAX))
    return TaskResult(built)


def _build(database: Database, project: int, size: int, patience: Patience) -> int | None:
    """How many events the next segment holds; 0 if there are too few for one, None if it took too long.

    Raises _MissingEventsError.
    """
    seconds_max = patience.usual if size > 1 else patience.smallest
    try:
        with database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
            session.execute(_TIMEOUT, {"milliseconds": str(round(seconds_max * 1000))})
            built: int = session.execute(_BUILD, {"project": project, "size": size}).scalar_one()
            if not session.execute(_IS_COMPLETE).scalar_one():
                raise _MissingEventsError
    except StorageUnavailable as error:
        is_too_slow = isinstance(getattr(error.__cause__, "orig", None), errors.QueryCanceled)
        if not is_too_slow or size == 1:
            raise
        _log.warning("event_segment_took_too_long", project=project, events=size)
        return None
    return built


def _projects_behind(database: Database, now: datetime, size: int) -> list[int]:
    with database.transaction(TenantScope.ALL) as session:
        until = session.execute(_CONSIDERED_UNTIL, {"name": TASK_NAME, "now": now}).scalar_one_or_none()
        since = until - _SLACK if until else datetime.min.replace(tzinfo=now.tzinfo)
        hour = since.replace(minute=0, second=0, microsecond=0)
        return list(session.execute(_BEHIND, {"since": hour, "now": now, "size": size}).scalars())
