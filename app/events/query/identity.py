"""Our own id of an event, `evu_…`: its time of receipt and its uid, so that its row is found by the primary key."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from app.identifiers import BASE62

_PREFIX: Final = "evu_"
# 24 bytes: microseconds since 1970 (8, with the sign's bit turned, so that texts sort as times do), then the uid (16).
_CHARACTERS: Final = 33
_SHOWN: Final = re.compile(rf"{_PREFIX}([0-9A-Za-z]{{{_CHARACTERS}}})")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SIGN: Final = 1 << 63
_UID_BITS: Final = 128
_DIGITS: Final = {character: value for value, character in enumerate(BASE62)}


def shown_id(received_at: datetime, event_uid: UUID) -> str:
    """The id under which callers know an event."""
    microseconds = (received_at - _EPOCH) // timedelta(microseconds=1)
    value = (microseconds + _SIGN) << _UID_BITS | event_uid.int
    characters = []
    for _ in range(_CHARACTERS):
        value, digit = divmod(value, 62)
        characters.append(BASE62[digit])
    return _PREFIX + "".join(reversed(characters))


def read_shown_id(text: str) -> tuple[datetime, UUID] | None:
    """What shown_id() was made of; None if it can have made no such text."""
    found = _SHOWN.fullmatch(text)
    if found is None:
        return None
    value = 0
    for character in found[1]:
        value = value * 62 + _DIGITS[character]
    try:
        received_at = _EPOCH + timedelta(microseconds=(value >> _UID_BITS) - _SIGN)
    except OverflowError:
        return None
    return received_at, UUID(int=value & ((1 << _UID_BITS) - 1))
