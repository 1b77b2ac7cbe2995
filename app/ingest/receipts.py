"""Tells a producer whether an event was stored: by its event_id, or by the Idempotency-Key that it was sent with.

A source key reads these receipts of its own source, and nothing else. What an attempt that is still under way has not
committed is not stored: the answer may be another one a moment later.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from app.credentials.verification import Identity
from app.errors import NotFound
from app.ingest.acceptance import Client
from app.ingest.services import IngestServices
from app.ingest.storage import Outcome, Verdict
from app.ingest.verdicts import look_up_refusal

# The key and its policies are judged in the statement that reads, as in the one that writes. Each look-up is one by a
# primary key; an expired record is none.
_JUDGED: Final = """
    SELECT coalesce(caller.refusal, refuse_client_origin(allowed_origins, allowed_networks, %s, %s)), {columns}
    FROM judge_callers(%s::jsonb, statement_timestamp(), NULL) AS caller
    LEFT JOIN {table} AS found ON found.project_id = caller.project_id AND found.source_id = caller.source_id
        AND found.{column} = %s {condition}
"""
_BY_EVENT_ID: Final = _JUDGED.format(columns="received_at, NULL", table="event_ledger", column="event_id", condition="")
_BY_IDEMPOTENCY_KEY: Final = _JUDGED.format(
    columns="created_at, response_body",
    table="idempotency_records",
    column="idempotency_key",
    condition="AND found.expires_at > statement_timestamp()",
)
_NO_EVENT: Final = "No event of this source is stored under this event_id, or it is not remembered any more."
_NO_REQUEST: Final = "No request of this source with this Idempotency-Key was accepted in the last hours."


class StoredReceipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was answered, and when it was received."""

    stored: bool = True
    received_at: datetime
    receipt: msgspec.Raw
    """The answer, as it was."""


@dataclass(frozen=True, slots=True)
class Receipts:
    """The receipts of one key's source. Both raise NotFound, the refusals of a key that may not send, and
    StorageUnavailable.
    """

    services: IngestServices
    identity: Identity
    client: Client

    def of_event(self, event_id: str) -> StoredReceipt:
        """Of the event that the source has sent under this id."""
        # PostgreSQL takes no text with this character, and no event has one.
        found = None if "\x00" in event_id else self._look_up(_BY_EVENT_ID, event_id)
        if found is None:
            raise NotFound(_NO_EVENT)
        receipt = msgspec.json.encode({"accepted": True, "event_id": event_id, "status": "stored"})
        return StoredReceipt(received_at=found[0], receipt=msgspec.Raw(receipt))

    def of_request(self, idempotency_key: str) -> StoredReceipt:
        """Of the request with this Idempotency-Key, for an event or a batch."""
        found = self._look_up(_BY_IDEMPOTENCY_KEY, idempotency_key)
        if found is None:
            raise NotFound(_NO_REQUEST)
        return StoredReceipt(received_at=found[0], receipt=msgspec.Raw(found[1].encode()))

    def _look_up(self, statement: str, name: str) -> tuple[datetime, str] | None:
        caller = {"caller": 0, "key_row": self.identity.row_id, "key_id": self.identity.public_id}
        given = (self.client.address or None, self.client.origin, msgspec.json.encode([caller]).decode(), name)
        seconds = self.services.settings.storage_deadline_seconds
        with self.services.database.transaction(self.identity.workspace_id, deadline_seconds=seconds) as session:
            ((refused, received_at, body),) = session.connection().exec_driver_sql(statement, given).all()
        if refused is not None:
            verdict = Verdict(Outcome(refused), None)
            raise look_up_refusal(verdict, self.identity, self.client, self.services.database)
        return None if received_at is None else (received_at, body)
