"""Counts what is refused, by key, code and hour: in memory, and every two seconds into the usage outbox.

A refusal writes nothing, so there is no transaction that could carry its count, as there is for what is accepted. What
a process has counted since its last flush is lost if it is killed; at an orderly end it is flushed. Nothing is counted
twice: a flush whose commit went unanswered is looked up in PostgreSQL before it is made again. The hour is that of
PostgreSQL's clock: the process only measures how long ago it was.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from multiprocessing.util import Finalize
from typing import Final, NamedTuple
from weakref import WeakMethod

import msgspec
import structlog
from sqlalchemy import text
from sqlalchemy.exc import DataError

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.errors import OutcomeUnknown, Refusal, StorageUnavailable
from app.identifiers import uuid7

_log = structlog.get_logger()

_FLUSH_SECONDS: Final = 2.0
# About 300 bytes each. Reached by ten thousand keys that are all refused, or by some hundred while PostgreSQL is away
# for days.
_COUNTS_MAX: Final = 10_000
# What is refused within this time counts as refused at its beginning. A flush ends it, so it is this long, and a count
# this far from its hour, only while PostgreSQL is away.
_SPAN_SECONDS: Final = 900.0
_DEADLINE_SECONDS: Final = 3.0
# A key is named by its row and by its public id: after a restore a row number may belong to another one.
_WRITE = text("""
    WITH written AS (
        INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
            payload_bytes, received_at)
        SELECT key.project_id, refused.usage_uid, key.workspace_id, key.source_id, key.id, refused.code,
            refused.events, 0,
            date_trunc('hour', clock_timestamp() - refused.seconds_ago * interval '1 second', 'UTC')
        FROM jsonb_to_recordset(CAST(:refused AS jsonb)) AS refused (
            key_row bigint, key_id text, usage_uid uuid, code text, events bigint, seconds_ago float8)
        JOIN source_keys AS key ON key.id = refused.key_row AND key.public_id = refused.key_id
    )
    SELECT pg_current_xact_id()::text
""")
_FATE = text("SELECT pg_xact_status(CAST(CAST(:transaction AS text) AS xid8))")


class _Kind(NamedTuple):
    """What is counted together."""

    identity: Identity
    code: str
    since: float
    """In time.monotonic() seconds."""


class _Flush(NamedTuple):
    """A flush whose commit went unanswered."""

    transaction: str
    counts: Counter[_Kind]


class Refusals:
    """The refusals of one process; starts its thread at the first one, in each forked child."""

    flushes_by_itself = True
    """Whether it has a thread for that; else whoever wants it flushed says so."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reset()
        reset_after_fork(self, Refusals._reset)
        self._background = Background(
            self.flush, name="refusals", pause_seconds=_FLUSH_SECONDS, pause_seconds_min=_FLUSH_SECONDS
        )

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._counts: Counter[_Kind] = Counter()
        self._since = 0.0
        self._unanswered: _Flush | None = None

    def count(self, identity: Identity, refusal: Refusal) -> None:
        """Count a request of a proven key that was refused as a whole.

        Not if its outcome is unknown: the event may be stored, and is counted then.
        """
        if not isinstance(refusal, OutcomeUnknown):
            self.count_events(identity, {refusal.code: 1})

    def count_events(self, identity: Identity, codes: Mapping[str, int]) -> None:
        """Count events that were refused one by one, by code."""
        now = time.monotonic()
        with self._mutex:
            if not self._counts or now - self._since > _SPAN_SECONDS:
                self._since = now
            for code, events in codes.items():
                self._add(_Kind(identity, code, self._since), events)
        if self.flushes_by_itself and not self._background.is_running and self._background.start():
            # Not atexit, which a server's forked worker never comes to; for this process only, so not in __init__.
            Finalize(None, _call, args=(WeakMethod(self.flush),), exitpriority=0)

    def flush(self) -> None:
        """Write what was counted; while PostgreSQL is away it stays in memory."""
        with self._flushing:
            try:
                if self._unanswered is None or self._find_out(self._unanswered):
                    self._write()
            except StorageUnavailable:
                # Every request says it already.
                return

    def _write(self) -> None:
        with self._mutex:
            counts, self._counts = self._counts, Counter()
        if not counts:
            return
        transaction = ""
        try:
            with self._database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
                transaction = session.execute(_WRITE, {"refused": _json(counts)}).scalar_one()
        except OutcomeUnknown:
            self._unanswered = _Flush(transaction, counts)
            raise
        except BaseException:
            self._put_back(counts)
            raise

    def _find_out(self, flush: _Flush) -> bool:
        """Whether it is known by now what became of `flush`; if it was rolled back, its counts are there again."""
        try:
            with self._database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
                fate = session.execute(_FATE, {"transaction": flush.transaction}).scalar_one()
        except DataError:
            # A transaction of the future: a server that crashed before it wrote anything of ours has forgotten it.
            fate = "aborted"
        if fate == "in progress":
            return False
        self._unanswered = None
        if fate == "aborted":
            self._put_back(flush.counts)
        return True

    def _put_back(self, counts: Counter[_Kind]) -> None:
        with self._mutex:
            for kind, events in counts.items():
                self._add(kind, events)

    def _add(self, kind: _Kind, events: int) -> None:
        if kind in self._counts or len(self._counts) < _COUNTS_MAX:
            self._counts[kind] += events
        else:
            _log.warning("refusal_not_counted", key=kind.identity.public_id, refused_as=kind.code, events=events)


def _call(reference: WeakMethod[Callable[[], None]]) -> None:
    if (method := reference()) is not None:
        method()


def _json(counts: Counter[_Kind]) -> str:
    now = time.monotonic()
    rows = [
        {
            "key_row": kind.identity.row_id,
            "key_id": kind.identity.public_id,
            "usage_uid": uuid7(),
            "code": kind.code,
            "events": events,
            "seconds_ago": now - kind.since,
        }
        for kind, events in counts.items()
    ]
    return msgspec.json.encode(rows).decode()
