"""Reads the events that a consumer has not committed."""

from dataclasses import dataclass, replace
from typing import Self

from app.database.engine import Database
from app.events.consumers.cursors import Bookmark, ConsumerCursors, bookmark_of
from app.events.consumers.domain import find_consumer
from app.events.feed.domain import Feed, Page
from app.events.query.parsing import parse
from app.events.statements import LOOK_UP, reading
from app.management.common.operators import Operator


@dataclass(frozen=True, slots=True)
class ConsumerReader:
    """One request for the next events of a consumer."""

    feed: Feed
    begin: Bookmark
    """Where it begins; `seek_number` and `committed` are those of the consumer as it is now."""
    _cursors: ConsumerCursors

    @classmethod
    def of(
        cls, database: Database, secret_keys: tuple[str, ...], operator: Operator, name: str, cursor: str | None
    ) -> Self:
        """Behind what is committed, or behind a cursor that was given since the last seek.

        Raises Conflict, SchemaValidationFailed and NotFound.
        """
        with reading(database, operator.workspace_id, LOOK_UP) as session:
            consumer, project_id = find_consumer(session, operator, name)
            cursors = ConsumerCursors(secret_keys, consumer)
            begin = bookmark_of(consumer)
            if cursor is not None:
                bookmark = cursors.read(cursor)
                bookmark.check(consumer)
                begin = replace(begin, place=bookmark.place, at=bookmark.at)
            return cls(Feed(project_id, parse(consumer.q)), begin, cursors)

    def next_cursor(self, page: Page) -> str:
        """The cursor behind a page, which commits it and all before it."""
        at = page.data[-1].received_at if page.data else self.begin.at
        return self._cursors.write(replace(self.begin, place=page.reached, at=at))
