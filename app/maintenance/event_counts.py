"""Keeps event_hours equal to the events when some are deleted, and compares the two.

At any moment the events of a key, type and severity in an hour are as many as event_hours and the stored rows of
usage_outbox say together (one snapshot, taken behind a lock on `events`, because a drop is no part of a snapshot).
"""

from typing import Any, Final, NamedTuple

import structlog
from psycopg import errors, sql

from app.database.owner import Connection
from app.maintenance.partitions import Partition

_log = structlog.get_logger()

COUNTS_DIFFER: Final = "event_counts_differ"
"""The row of maintenance_tasks that counts what was corrected: no task, but in the transaction of the correction."""
_TRIES: Final = 3

# In the order in which folds update counts, so that the two never deadlock. A count below zero is that of events which
# a fold has not counted yet. Of a row that this statement has written the ctid is good until its commit.
_DELETE: Final = sql.SQL("""
    WITH gone AS (
        DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE project_id = ANY (%s) LIMIT %s))
        RETURNING project_id, received_at, source_key_id, event_type, severity, workspace_id, environment_id, source_id
    ),
    subtracted AS (
        INSERT INTO event_hours AS hours (project_id, hour, source_key_id, event_type, severity, workspace_id,
            environment_id, source_id, events)
        SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity, workspace_id,
            environment_id, source_id, -count(*)
        FROM gone GROUP BY 1, 2, 3, 4, 5, 6, 7, 8 ORDER BY 1, 2, 3, 4, 5
        ON CONFLICT (project_id, hour, source_key_id, event_type, severity) DO UPDATE SET
            events = hours.events + excluded.events
        RETURNING ctid, events
    )
    SELECT (SELECT count(*) FROM gone), ARRAY(SELECT ctid FROM subtracted WHERE events = 0)::text
""")
_REMOVE: Final = "DELETE FROM event_hours WHERE ctid = ANY (%s::text::tid[])"
# The update waits for each fold that has taken rows of the day, and the statement behind it sees what that has counted.
_FORGET: Final = (
    """
    UPDATE usage_outbox SET environment_id = NULL, event_type = NULL, severity = NULL
    WHERE event_type IS NOT NULL AND received_at >= %(begin)s AND received_at < %(end)s
    """,
    "DELETE FROM event_hours WHERE hour >= %(begin)s AND hour < %(end)s",
    # One that reaches into the next day stays. One that is being built meanwhile goes with the next day.
    "DELETE FROM event_segments WHERE ends_at < %(end)s",
)
# Of a workspace that lives in another cell not all is here, or not all any more.
_DIFFERENCES: Final = sql.SQL("""
    SELECT project_id, hour, source_key_id, event_type, severity, min(workspace_id) AS workspace_id,
        min(environment_id) AS environment_id, min(source_id) AS source_id, sum(events)::bigint AS events
    FROM (
        SELECT project_id, date_trunc('hour', received_at, 'UTC') AS hour, source_key_id, event_type, severity,
            workspace_id, environment_id, source_id, count(*) AS events
        FROM {table} GROUP BY 1, 2, 3, 4, 5, 6, 7, 8
        UNION ALL
        SELECT project_id, hour, source_key_id, event_type, severity, workspace_id, environment_id, source_id, -events
        FROM event_hours WHERE hour >= {begin} AND hour < {end}
        UNION ALL
        SELECT project_id, date_trunc('hour', received_at, 'UTC'), source_key_id, event_type, severity,
            workspace_id, environment_id, source_id, -events
        FROM usage_outbox WHERE event_type IS NOT NULL AND received_at >= {begin} AND received_at < {end}
    ) AS each
    WHERE workspace_id NOT IN (SELECT id FROM workspaces WHERE home IS NOT NULL)
    GROUP BY 1, 2, 3, 4, 5 HAVING sum(events) <> 0
""")
_COMPARE: Final = sql.SQL("""
    SELECT count(*), coalesce(sum(events) FILTER (WHERE events > 0), 0)::bigint,
        coalesce(-sum(events) FILTER (WHERE events < 0), 0)::bigint
    FROM ({differences}) AS difference
""")
_CORRECT: Final = sql.SQL("""
    INSERT INTO event_hours AS hours (project_id, hour, source_key_id, event_type, severity, workspace_id,
        environment_id, source_id, events)
    SELECT * FROM ({differences}) AS difference ORDER BY 1, 2, 3, 4, 5
    ON CONFLICT (project_id, hour, source_key_id, event_type, severity) DO UPDATE SET
        events = hours.events + excluded.events
""")
_REMOVE_ZEROS: Final = "DELETE FROM event_hours WHERE hour >= %s AND hour < %s AND events = 0"
_COUNT_CORRECTION: Final = """
    INSERT INTO maintenance_tasks AS task (name, runs, rows_done) VALUES (%s, 1, %s)
    ON CONFLICT (name) DO UPDATE SET runs = task.runs + 1, rows_done = task.rows_done + excluded.rows_done
"""


class Difference(NamedTuple):
    """Between the events of a day and their counts."""

    counts: int
    """How many of them were wrong."""
    uncounted: int
    """Events too few in them."""
    overcounted: int
    """Events too many in them."""


def delete_events(connection: Connection, partition: Partition, projects: list[int], rows: int) -> int:
    """Delete up to `rows` events of `projects`, and subtract them from the counts; returns how many.

    Events are never updated, so a ctid that was read stays valid.
    """
    with connection.transaction():
        found = connection.execute(_DELETE.format(table=partition.table), [projects, rows]).fetchone()
        deleted, zeros = found or (0, "{}")
        if zeros != "{}":
            connection.execute(_REMOVE, [zeros])
    return int(deleted)


def forget_counts(connection: Connection, partition: Partition) -> None:
    """Delete what is kept of a day beside its events, in the transaction that drops it, with its writers locked out."""
    for statement in _FORGET:
        connection.execute(statement, {"begin": partition.begin, "end": partition.end})


def correct_counts(connection: Connection, partition: Partition) -> Difference:
    """Compare the counts of a closed day with its events, and correct those that differ; returns what differed.

    In one snapshot. A correction adds the difference, so a fold in between is not lost. One that has changed the same
    row since the snapshot makes PostgreSQL refuse the correction, and then all of it is done again: two corrections at
    once cannot both be added.
    """
    for _ in range(_TRIES - 1):
        try:
            return _correct_counts(connection, partition)
        except errors.SerializationFailure:
            continue
    return _correct_counts(connection, partition)


def _correct_counts(connection: Connection, partition: Partition) -> Difference:
    day: dict[str, Any] = {"begin": partition.begin, "end": partition.end}
    differences = _DIFFERENCES.format(table=partition.table, **day)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # Read by itself at first: PostgreSQL counts on several cores only what it does not write from.
        found = Difference(*connection.execute(_COMPARE.format(differences=differences)).fetchall()[0])
        if found.counts:
            connection.execute(_CORRECT.format(differences=differences))
            connection.execute(_COUNT_CORRECTION, [COUNTS_DIFFER, found.uncounted + found.overcounted])
        connection.execute(_REMOVE_ZEROS, [partition.begin, partition.end])
    if found.counts:
        _log.error("event_counts_differ", partition=partition.name, **found._asdict())
    return found
