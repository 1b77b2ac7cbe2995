"""Counts refusals by key, code and hour: in memory, written to the usage outbox every two seconds.

A refusal writes nothing, so no transaction can carry its count, as one does for accepted events. A process that is
killed loses the counts since its last flush, and a flush whose commit goes unanswered loses its counts if it was rolled
back; an orderly end flushes. No count is doubled: only a flush that surely stored nothing is repeated. The hour is by
PostgreSQL's clock: the process knows how long ago a refusal was, and not when.
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

from app.concurrency.background import Background
from app.concurrency.fork import reset_after_fork
from app.credentials.verification import Identity
from app.database.engine import Database, TenantScope
from app.errors import OutcomeUnknown, Refusal, StorageUnavailable
from app.identifiers import uuid7

_log = structlog.get_logger()

FLUSH_SECONDS: Final = 2.0
# About 300 bytes each. Ten thousand keys that are all refused reach it, or some hundred while PostgreSQL is away for
# days.
_COUNTS_MAX: Final = 10_000
# Refusals within this time count as of its beginning. A flush ends it, so it lasts this long, and a count is this far
# from its hour, only while PostgreSQL is away.
_SPAN_SECONDS: Final = 900.0
_DEADLINE_SECONDS: Final = 3.0
# A key is found by its row and its public id: after a restore, a row number may belong to another key.
_WRITE = text("""
    INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
        payload_bytes, received_at)
    SELECT key.project_id, refused.usage_uid, key.workspace_id, key.source_id, key.id, refused.code, refused.events, 0,
        date_trunc('hour', clock_timestamp() - refused.seconds_ago * interval '1 second', 'UTC')
    FROM jsonb_to_recordset(CAST(:refused AS jsonb)) AS refused (
        key_row bigint, key_id text, usage_uid uuid, code text, events bigint, seconds_ago float8)
    JOIN source_keys AS key ON key.id = refused.key_row AND key.public_id = refused.key_id
""")


class _Kind(NamedTuple):
    """What is counted together."""

    identity: Identity
    code: str
    since: float
    """In time.monotonic() seconds."""


class Refusals:
    """The refusals of one process; the first one starts the thread that flushes, also in each forked child."""

    def __init__(
        self, database: Database, *, flush_seconds: float | None = FLUSH_SECONDS, counts_max: int = _COUNTS_MAX
    ) -> None:
        """With `flush_seconds` None, only calls of `flush` write."""
        self._database = database
        self._counts_max = counts_max
        self._background: Background | None = None
        if flush_seconds is not None:
            self._background = Background(
                self.flush, name="refusals", pause_seconds=flush_seconds, pause_seconds_min=flush_seconds
            )
        self._reset()
        reset_after_fork(self, Refusals._reset)

    def _reset(self) -> None:
        self._mutex = threading.Lock()
        self._flushing = threading.Lock()
        self._counts: Counter[_Kind] = Counter()
        self._since = 0.0

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
        if self._background and not self._background.is_running and self._background.start():
            # Not atexit, which a server's forked worker never reaches; for this process only, so not in __init__.
            Finalize(None, _call, args=(WeakMethod(self.flush),), exitpriority=0)

    def flush(self) -> None:
        """Write the counts; while PostgreSQL is away they stay in memory."""
        with self._flushing:
            with self._mutex:
                counts, self._counts = self._counts, Counter()
            if not counts:
                return
            try:
                with self._database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
                    session.execute(_WRITE, {"refused": _json(counts)})
            except OutcomeUnknown:
                _log.warning("refusals_perhaps_not_counted", events=counts.total())
            except StorageUnavailable:
                self._put_back(counts)
            except BaseException:
                self._put_back(counts)
                raise

    def _put_back(self, counts: Counter[_Kind]) -> None:
        with self._mutex:
            for kind, events in counts.items():
                self._add(kind, events)

    def _add(self, kind: _Kind, events: int) -> None:
        if kind in self._counts or len(self._counts) < self._counts_max:
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
