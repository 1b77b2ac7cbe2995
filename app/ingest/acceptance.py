"""The one order in which ingest deals with a request: key, rate, body, decode, store.

Single events take it on the fast path (fast_path.py) and through Flask (routes.py), batches through Flask. Steps and
their price for a common event (bench/prices.py): look the key up in memory (1 µs), keep to its rate (2 µs), decode the
envelope (7 µs; 70 if the exact reader has to), then wait for the commit of the event's group (committer.py).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import ClassVar, Final, Generic, TypeVar

from msgspec import Struct
from sqlalchemy import text

from app import errors
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded, Refusal, StorageUnavailable
from app.ingest.authentication import authenticate
from app.ingest.envelope import Receipt
from app.ingest.services import IngestServices
from app.ingest.waits import Waits
from app.rate_limits import Allowance, events_worth

Decoded = TypeVar("Decoded")

_NO_SLOT: Final = nullcontext()
_NOT_ABOUT_CONTENT: Final = (RateLimitExceeded, StorageUnavailable)
_IS_LIVE: Final = text(
    "SELECT revoked_at IS NULL AND (expires_at <= now() OR expires_at = expired_at) IS NOT TRUE"
    " FROM source_keys WHERE public_id = :public_id"
)


# What is made for every event is a Struct: made in a third of the time that a frozen dataclass takes.
class Client(Struct, frozen=True, gc=False):
    """Who sends: the credential that is shown, and where it is shown from."""

    key: str | None
    address: str
    """Of the client, see client_address.py."""
    origin: str | None = None
    """Of the web page, see policies.origin_of."""
    identity: Identity | None = None
    """Whose key it is, if that was found in memory already."""
    on_authenticated: Callable[[Identity, float], None] | None = None
    """Called once the key is proven, whatever becomes of the request, with the moment (time.monotonic() seconds) until
    which it may wait. May raise StorageUnavailable.
    """


class Accepted(Struct, frozen=True, gc=False):
    """A request whose events are committed."""

    receipt: Receipt
    log_event: str
    """The static name of its log line."""
    allowance: Allowance

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The response's headers, without its media type, length and request id."""
        headers = list(self.allowance.headers.items())
        if self.receipt.is_replay:
            headers.append(("Idempotent-Replayed", "true"))
        return headers


class Incoming(ABC, Generic[Decoded]):
    """A request that is not validated yet. Its steps are called in the order below."""

    EVENTS_BEFORE_BODY: ClassVar[int]
    """As how many events it counts before its body is read; 0 asks whether one would be admitted."""

    def __init__(self, client: Client, idempotency_header: str | None, waits: Waits, services: IngestServices) -> None:
        self.client: Final = client
        self.waits: Final = waits
        self._idempotency_header = idempotency_header
        self._services = services

    @abstractmethod
    def read_body(self) -> Awaitable[bytes]:
        """Validate the head of the request, and read its body. Raises a Refusal."""

    def slot(self, identity: Identity) -> AbstractContextManager[None]:  # noqa: ARG002 - a batch's is its workspace's
        """What must be held while it is decoded and stored."""
        return _NO_SLOT

    @abstractmethod
    async def decode(self, body: bytes) -> tuple[Decoded, int]:
        """The attempt to store, and how many events it holds. Raises a Refusal."""

    @abstractmethod
    async def store(self, identity: Identity, decoded: Decoded) -> tuple[Receipt, str]:
        """The receipt of committed events, and the log event. Raises a Refusal: nothing was stored."""


async def accept(incoming: Incoming[Decoded], services: IngestServices) -> Accepted:
    """Store what `incoming` holds, once. Raises a Refusal: nothing was stored, but for OutcomeUnknown."""
    identity = incoming.client.identity or await _authenticate(incoming, services)
    admit = services.rate_limiter.admit
    is_decoded = False
    try:
        # A client without allowance is refused before its body is read. A large body counts as several events before it
        # is decoded, because decoding is what it costs.
        consumed = incoming.EVENTS_BEFORE_BODY
        allowance = admit(identity, consumed)
        body = await incoming.read_body()
        if (worth := events_worth(len(body))) > consumed:
            allowance, consumed = admit(identity, worth, consumed=consumed), worth
        # Not earlier: a slow sender must not hold a slot.
        with incoming.slot(identity):
            decoded, events = await incoming.decode(body)
            is_decoded = True
            if events > consumed:
                allowance = admit(identity, events, consumed=consumed)
            # With a deadline of its own: a producer with a slow line has not waited for PostgreSQL while it sent.
            receipt, log_event = await incoming.store(identity, decoded)
    except Refusal as refusal:
        if not is_decoded and not isinstance(refusal, _NOT_ABOUT_CONTENT):
            refusal = await _refusal_unless_revoked(refusal, incoming, identity, services)
        services.refusals.count(identity, refusal)
        raise refusal from refusal.__cause__
    return Accepted(receipt, log_event, allowance)


async def _refusal_unless_revoked(
    refusal: Refusal, incoming: Incoming[Decoded], identity: Identity, services: IngestServices
) -> Refusal:
    """`refusal`; but a revoked key learns that it is revoked, and not what is wrong with its event."""
    try:
        await incoming.waits.run(partial(_require_live, identity, services))
    except Refusal as other:
        return other
    return refusal


async def _authenticate(incoming: Incoming[Decoded], services: IngestServices) -> Identity:
    client = incoming.client
    deadline = time.monotonic() + services.settings.storage_deadline_seconds
    identity = await incoming.waits.run(partial(prove_key, client.key, services, deadline))
    if client.on_authenticated is not None:
        client.on_authenticated(identity, deadline)
    return identity


def prove_key(key: str | None, services: IngestServices, deadline: float) -> Identity:
    """Whose key it is; waits until `deadline` (time.monotonic() seconds). Raises InvalidSourceKey, WrongCell and
    StorageUnavailable.
    """
    with services.other_cells.naming_theirs(key):
        return authenticate(key, services.credentials, services.database, deadline)


def _require_live(identity: Identity, services: IngestServices) -> None:
    """Raises InvalidSourceKey if the key is revoked or has expired, and StorageUnavailable."""
    deadline_seconds = services.settings.storage_deadline_seconds
    with services.database.transaction(identity.workspace_id, deadline_seconds=deadline_seconds) as session:
        if not session.execute(_IS_LIVE, {"public_id": identity.public_id}).scalar_one_or_none():
            raise errors.InvalidSourceKey
