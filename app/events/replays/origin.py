"""The ids of a replayed event, made of the replay and the original: it is stored once, however often it is tried.

Its event_id names its origin, `rep_….evu_…`, and the ledger of the source keeps it from being stored under that id
twice. Its uid marks the attempt as ours, if the first one's commit went unanswered; and it marks the event as a
replay's for good, because producers choose no uids.
"""

import hashlib
import re
from typing import Final
from uuid import UUID

import msgspec

PREFIX: Final = "rep"
"""Of a replay's public id."""
# A full stop stands in an address as it is, and needs no quotes in a query.
_EVENT_ID: Final = re.compile(r"(rep_[0-9A-Za-z]{1,64})\.(evu_[0-9A-Za-z]{33})")
_POSITION: Final = (1 << 48) - 1
_POSITION_SHIFT: Final = 80


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a replayed event comes from."""

    replay_id: str
    event_id: str
    """Our id of the original."""


def event_id_of(origin: Origin) -> str:
    """The event_id of the new event."""
    return f"{origin.replay_id}.{origin.event_id}"


def origin_of(event_id: str, event_uid: UUID) -> Origin | None:
    """Where an event comes from; None if no replay has stored it, though a producer may have chosen an id like that."""
    found = _EVENT_ID.fullmatch(event_id)
    origin = found and Origin(*found.groups())
    return origin if origin and event_uid == uid_of(origin, event_uid.int >> _POSITION_SHIFT) else None


def uid_of(origin: Origin, position: int) -> UUID:
    """The uid of the new event, a UUIDv8 (RFC 9562 §5.8): 48 bits of the original's position, then 74 of a digest.

    The events of one group are read in the order of their uids: so they keep that of the originals.
    """
    digest = int.from_bytes(hashlib.sha256(event_id_of(origin).encode()).digest()[:10])
    value = ((position & _POSITION) << _POSITION_SHIFT) | digest
    value &= ~((0xF << 76) | (0x3 << 62))
    return UUID(int=value | (0x8 << 76) | (0x2 << 62))
