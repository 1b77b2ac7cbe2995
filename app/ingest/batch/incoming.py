"""A batch on the ingest path: how it is decoded, stored and answered."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import ClassVar

from app.credentials.verification import Identity
from app.idempotency.header import read_idempotency_key
from app.identifiers import uuid7
from app.ingest.acceptance import Client, Incoming
from app.ingest.batch.body import read_batch
from app.ingest.batch.transaction import BatchAttempt, store_until_decided
from app.ingest.envelope import Attempt, Envelope, Receipt
from app.ingest.services import IngestServices
from app.ingest.waits import BlockingWaits


class IncomingBatch(Incoming[BatchAttempt]):
    """A request to store up to 1,000 events with one commit. Its waits block the thread."""

    EVENTS_BEFORE_BODY: ClassVar[int] = 0

    _idempotency_key: str | None = None
    _is_atomic = False
    _media_type = ""

    def __init__(
        self,
        client: Client,
        idempotency_header: str | None,
        read_head: Callable[[], tuple[bool, str]],
        waits: BlockingWaits,
        services: IngestServices,
    ) -> None:
        """`read_head` says whether the batch is atomic, and its media type; may raise a Refusal."""
        super().__init__(client, idempotency_header, waits, services)
        self._read_head = read_head

    def read_body(self) -> Awaitable[bytes]:
        """Check the Idempotency-Key, the query and the media type, and read the body."""
        self._idempotency_key = read_idempotency_key(self._idempotency_header)
        self._is_atomic, self._media_type = self._read_head()
        return self.waits.body()

    def slot(self, identity: Identity) -> AbstractContextManager[None]:
        """One of the batches that this process works on. Raises StorageUnavailable."""
        return self._services.batch_slots.held(identity.workspace_id)

    async def decode(self, body: bytes) -> tuple[BatchAttempt, int]:
        """The attempt to store the events in `body`, and how many these are."""
        batch = read_batch(
            body,
            self._media_type,
            is_atomic=self._is_atomic,
            event_bytes_max=self._services.settings.request_bytes_max,
        )
        attempts = tuple(self._attempt(event) for event in batch.events if isinstance(event, Envelope))
        attempt = BatchAttempt(batch, self.client, self._is_atomic, self._idempotency_key, uuid7(), attempts)
        return attempt, len(batch.events)

    def _attempt(self, envelope: Envelope) -> Attempt:
        client = self.client
        return Attempt(
            envelope=envelope,
            idempotency_key=None,
            event_uid=uuid7(),
            address=client.address,
            origin=client.origin,
        )

    async def store(self, identity: Identity, decoded: BatchAttempt) -> tuple[Receipt, str]:
        """The receipt with a verdict for each event, in order."""
        receipt = store_until_decided(decoded, identity, self._services)
        return receipt, "batch_replayed" if receipt.is_replay else "batch_accepted"
