"""Counts who reads: requests, events and bytes by token, project, operation, outcome and hour.

Written to read_hours every two seconds. An addition is no statement that may be repeated, so each flush leaves its uid
in the row of its process, in the transaction that adds; a repetition that finds its own uid there adds nothing. One row
for each process is enough, because a process begins no flush before the one before has been answered or given up. The
row lock makes a repetition wait for a first try that still runs (docs/decisions/0010-usage.md).
"""

import time
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.counting.flushed import Flush, FlushedCounts, Names
from app.credentials.verification import Identity
from app.identifiers import uuid7
from app.models.read_usage import NO_PROJECT
from app.telemetry import metrics

ANSWERED: Final = "answered"
"""The outcome of a request that was not refused."""
BROKEN_OFF: Final = "broken_off"
"""Counted once more for an answered request whose response ended before its end."""
_NAMES: Final = Names("reads", ("requests", "events", "body_bytes"), "reads_not_counted", "reads_perhaps_not_counted")
# Counts are updated in the order of keys, so that two flushes never deadlock. A token is found by its row and its
# public id: after a restore, a row number may belong to another token. The rows that ended processes have left are
# deleted when nothing can be repeated any more; SKIP LOCKED, because another flush may delete the same.
_WRITE = text("""
WITH forgotten AS (
    DELETE FROM read_flushes WHERE process_uid IN (
        SELECT process_uid FROM read_flushes
        WHERE flushed_at < clock_timestamp() - interval '1 day' AND process_uid <> :process_uid
        FOR UPDATE SKIP LOCKED)
),
flush AS (
    INSERT INTO read_flushes AS last (process_uid, flush_uid, flushed_at)
    VALUES (:process_uid, :flush_uid, clock_timestamp())
    ON CONFLICT (process_uid) DO UPDATE SET flush_uid = excluded.flush_uid, flushed_at = excluded.flushed_at
        WHERE last.flush_uid <> excluded.flush_uid
    RETURNING flush_uid
)
INSERT INTO read_hours AS hours (workspace_id, token_id, hour, project_id, operation, outcome, requests, events,
    body_bytes)
SELECT token.workspace_id, token.id,
    date_trunc('hour', clock_timestamp() - read.seconds_ago * interval '1 second', 'UTC') AS hour,
    coalesce(project.id, :no_project) AS project_id, read.operation, read.outcome,
    sum(read.requests), sum(read.events), sum(read.body_bytes)
FROM flush
CROSS JOIN jsonb_to_recordset(CAST(:read AS jsonb)) AS read (token_row bigint, token text, project text, operation text,
    outcome text, requests bigint, events bigint, body_bytes bigint, seconds_ago float8)
JOIN management_tokens AS token ON token.id = read.token_row AND token.public_id = read.token
LEFT JOIN projects AS project ON project.public_id = read.project AND project.workspace_id = token.workspace_id
GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6
ON CONFLICT (workspace_id, token_id, hour, project_id, operation, outcome) DO UPDATE SET
    requests = hours.requests + excluded.requests, events = hours.events + excluded.events,
    body_bytes = hours.body_bytes + excluded.body_bytes
""")


class Read(NamedTuple):
    """What is counted together."""

    identity: Identity
    """Of the management token."""
    project_id: str | None
    """The public id; None: of no project, or refused before it was looked up."""
    operation: str
    """Its operationId in the OpenAPI document."""
    outcome: str
    """ANSWERED, BROKEN_OFF, or the code of the refusal."""


class Reads(FlushedCounts[Read]):
    """The reads of one process."""

    _names = _NAMES

    def _reset(self) -> None:
        super()._reset()
        self._process_uid = uuid7()

    def count(self, read: Read, *, requests: int = 0, events: int = 0, body_bytes: int = 0) -> None:
        """Count requests, or what the response of one has shown so far."""
        self._add([(read, (requests, events, body_bytes))])
        if events:
            metrics.EVENTS_SHOWN.labels(read.operation).inc(events)

    def _write(self, session: Session, flush: Flush[Read]) -> None:
        parameters = {
            "process_uid": self._process_uid,
            "flush_uid": flush[0].uid,
            "no_project": NO_PROJECT,
            "read": _json(flush),
        }
        session.execute(_WRITE, parameters)


def _json(flush: Flush[Read]) -> str:
    now = time.monotonic()
    rows = [
        {
            "token_row": count.what.identity.row_id,
            "token": count.what.identity.public_id,
            "project": count.what.project_id,
            "operation": count.what.operation,
            "outcome": count.what.outcome,
            "seconds_ago": now - count.since,
        }
        | dict(zip(_NAMES.amounts, count.amounts, strict=True))
        for count in flush
    ]
    return msgspec.json.encode(rows).decode()
