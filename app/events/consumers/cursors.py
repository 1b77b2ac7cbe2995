"""The cursors of a consumer, which belong to it and not to the token that got them."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from itsdangerous import BadData

from app.errors import Conflict, Fault, SchemaValidationFailed
from app.events.feed.cursors import Place
from app.management.common.paging import cursor_serializer
from app.models import Consumer

_FOREIGN: Final = "Not a next_cursor of this consumer."
_MOVED: Final = (
    "The consumer was moved by a seek after this cursor was given, so that what lies before it may be wanted again."
    " Read on without a cursor, from where the consumer is now."
)
_LOST: Final = (
    "The cursor is of a state that this database has lost: it was restored from a backup. Events that came since have"
    " places before it. Read on without a cursor, from where the consumer is now."
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Bookmark:
    """What a cursor holds: a place, and what was so when the cursor was given."""

    place: Place
    at: datetime | None
    """About when what lies just before the place was received, as in Consumer.position_at."""
    seek_number: int
    """The consumer's."""
    committed: int
    """The position up to which it had committed."""

    def check(self, consumer: Consumer) -> None:
        """Raises Conflict if the consumer does not lie before the place any more, or this state of it is lost."""
        if self.seek_number != consumer.seek_number:
            raise Conflict(_MOVED)
        # Without a seek it only moves forward. A worker that goes on after a restoration is recognised by this, also
        # when so many events have come since that the cursor's position is one of this database again.
        if self.committed > consumer.position:
            raise Conflict(_LOST)


def bookmark_of(consumer: Consumer) -> Bookmark:
    """Where a consumer is."""
    place = Place(consumer.position, consumer.event_uid)
    return Bookmark(place, consumer.position_at, consumer.seek_number, consumer.position)


class ConsumerCursors:
    """The cursors of one consumer, for every token that reaches it: a token can be rotated between a page and its
    commit. One that was deleted and made anew is another one.
    """

    def __init__(self, secret_keys: tuple[str, ...], consumer: Consumer) -> None:
        """Of `secret_keys` the first signs, and all verify."""
        scope = f"{consumer.workspace_id} consumer {consumer.public_id} {consumer.q}"
        self._serializer = cursor_serializer(secret_keys, scope)

    def write(self, bookmark: Bookmark) -> str:
        place = bookmark.place
        at = None if bookmark.at is None else (bookmark.at - _EPOCH) // timedelta(microseconds=1)
        held = [place.position, place.event_uid.hex, at, bookmark.seek_number, bookmark.committed]
        return str(self._serializer.dumps(held))

    def read(self, cursor: str, *, pointer: str = "/cursor") -> Bookmark:
        """`pointer` is where the request has it. Raises SchemaValidationFailed."""
        try:
            position, uid, at, seek_number, committed = self._serializer.loads(cursor)
        except BadData:
            raise SchemaValidationFailed(faults=(Fault(pointer, _FOREIGN),)) from None
        moment = None if at is None else _EPOCH + timedelta(microseconds=at)
        return Bookmark(Place(position, UUID(uid)), moment, seek_number, committed)
