"""Counts refusals by key, code and hour: in memory, written to the usage outbox every two seconds.

A refusal writes nothing, so no transaction can carry its count, as one does for accepted events. A flush that is
repeated writes its rows under the ids that they had, for as long as the worker leaves those in the outbox
(app/counting/flushed.py).
"""

import time
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from app.counting.flushed import Flush, FlushedCounts, Names
from app.credentials.verification import Identity
from app.errors import OutcomeUnknown, Refusal

_NAMES: Final = Names("refusals", ("events",), "refusal_not_counted", "refusals_perhaps_not_counted")
# A key is found by its row and its public id: after a restore, a row number may belong to another key.
_WRITE = text("""
    INSERT INTO usage_outbox (project_id, usage_uid, workspace_id, source_id, source_key_id, outcome, events,
        payload_bytes, received_at)
    SELECT key.project_id, refused.usage_uid, key.workspace_id, key.source_id, key.id, refused.code, refused.events, 0,
        clock_timestamp() - refused.seconds_ago * interval '1 second'
    FROM jsonb_to_recordset(CAST(:refused AS jsonb)) AS refused (
        key_row bigint, key_id text, usage_uid uuid, code text, events bigint, seconds_ago float8)
    JOIN source_keys AS key ON key.id = refused.key_row AND key.public_id = refused.key_id
    ON CONFLICT (project_id, usage_uid) DO NOTHING
""")


class _Kind(NamedTuple):
    """What is counted together."""

    identity: Identity
    code: str


class Refusals(FlushedCounts[_Kind]):
    """The refusals of one process."""

    _names = _NAMES

    def count(self, identity: Identity, refusal: Refusal) -> None:
        """Count a request of a proven key that was refused as a whole.

        Not if its outcome is unknown: the event may be stored, and is counted then.
        """
        if not isinstance(refusal, OutcomeUnknown):
            self.count_events(identity, {refusal.code: 1})

    def count_events(self, identity: Identity, codes: Mapping[str, int]) -> None:
        """Count events that were refused one by one, by code."""
        self._add((_Kind(identity, code), (events,)) for code, events in codes.items())

    def _write(self, session: Session, flush: Flush[_Kind]) -> None:
        session.execute(_WRITE, {"refused": _json(flush)})


def _json(flush: Flush[_Kind]) -> str:
    now = time.monotonic()
    rows = [
        {
            "key_row": count.what.identity.row_id,
            "key_id": count.what.identity.public_id,
            "usage_uid": count.uid,
            "code": count.what.code,
            "events": count.amounts[0],
            "seconds_ago": now - count.since,
        }
        for count in flush
    ]
    return msgspec.json.encode(rows).decode()
