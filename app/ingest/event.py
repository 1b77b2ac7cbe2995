"""A single event on the ingest path: how it is decoded, stored and refused."""

from collections.abc import Awaitable
from functools import partial
from typing import ClassVar

from app.credentials.verification import Identity
from app.idempotency.header import read_idempotency_key
from app.identifiers import uuid7
from app.ingest.acceptance import Incoming
from app.ingest.common_envelope import read_common_envelope
from app.ingest.envelope import NOT_AN_EVENT, Attempt, Envelope, Receipt, read_envelope
from app.ingest.storage import LOG_EVENTS
from app.ingest.verdicts import look_up_refusal
from app.wire.exact_json import read_object


class IncomingEvent(Incoming[Attempt]):
    """A request to store one event."""

    EVENTS_BEFORE_BODY: ClassVar[int] = 1

    _idempotency_key: str | None = None

    def read_body(self) -> Awaitable[bytes]:
        """Check the Idempotency-Key, and read the body."""
        self._idempotency_key = read_idempotency_key(self._idempotency_header)
        return self.waits.body()

    async def decode(self, body: bytes) -> tuple[Attempt, int]:
        """The attempt to store the event in `body`."""
        envelope = read_common_envelope(body)
        if envelope is None:
            envelope = await self.waits.run(partial(_read_exactly, body))
        attempt = Attempt(
            envelope=envelope,
            idempotency_key=self._idempotency_key,
            event_uid=uuid7(),
            address=self.client.address,
            origin=self.client.origin,
        )
        return attempt, 1

    async def store(self, identity: Identity, decoded: Attempt) -> tuple[Receipt, str]:
        """The receipt, once the event is committed, by this request or an earlier one."""
        verdict = await self.waits.stored(identity, decoded)
        if verdict.receipt is None:
            raise await self.waits.run(
                partial(look_up_refusal, verdict, identity, self.client, self._services.database)
            )
        return verdict.receipt, LOG_EVENTS[verdict.outcome]


def _read_exactly(body: bytes) -> Envelope:
    return read_envelope(read_object(body, NOT_AN_EVENT))
