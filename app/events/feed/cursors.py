"""The places of a feed's order, and the cursors by which a caller holds one."""

from typing import Final, NamedTuple, Self
from uuid import UUID

from app.events.cursors import Cursors
from app.management.common.operators import Operator


class Place(NamedTuple):
    """A place in the order of all events: behind the event with this position and uid."""

    position: int
    event_uid: UUID


BEGIN: Final = Place(0, UUID(int=0))


def behind_all_of(position: int) -> Place:
    """Behind each event with this position, which are those of one group."""
    return Place(position, UUID(int=(1 << 128) - 1))


class FeedCursors:
    """The cursors of one feed: those of another one, cut or forged ones are refused."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    @classmethod
    def of(cls, secret_keys: tuple[str, ...], operator: Operator, project_id: str, normalized: str) -> Self:
        """Those of a project and query, as the caller may use them."""
        return cls(Cursors(secret_keys, operator, f"feed {project_id} {normalized}"))

    def write(self, place: Place) -> str:
        return self._cursors.sign([place.position, place.event_uid.hex])

    def read(self, cursor: str) -> Place:
        """Raises SchemaValidationFailed."""
        position, uid = self._cursors.read(cursor)
        return Place(position, UUID(uid))
