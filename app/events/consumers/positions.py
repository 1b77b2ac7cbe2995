"""Moves a consumer: forward by a commit, anywhere by a seek."""

from secrets import randbits

from sqlalchemy.orm import Session

from app.audit.entries import Mutation, record
from app.database.engine import Database
from app.events.consumers.cursors import Bookmark, ConsumerCursors, bookmark_of
from app.events.consumers.domain import ConsumerView, find_consumer, view_of_consumer
from app.events.consumers.places import (
    AT_START,
    NOW,
    START,
    Landing,
    at_moment,
    at_now,
    moment_in,
)
from app.events.feed.cursors import Place
from app.events.feed.restored import require_existing
from app.management.common.mutations import moment, mutation, next_updated_at
from app.management.common.operators import Operator
from app.models import Consumer


def commit_place(
    database: Database, secret_keys: tuple[str, ...], operator: Operator, name: str, cursor: str
) -> ConsumerView:
    """Move a consumer to the place of a cursor; never back, so that it may be repeated and come late.

    Of two at once the one that leads further stays. It leaves no audit entry: it is the traffic of a worker, some in a
    second, as the use of a credential is, and not what an operator has decided; `committed_at` says when the last was.
    Raises Conflict if a seek has moved the consumer since the cursor was given; SchemaValidationFailed, NotFound.
    """
    with mutation(database, operator) as session:
        consumer, project_id = find_consumer(session, operator, name, is_to_change=True)
        bookmark = ConsumerCursors(secret_keys, consumer).read(cursor)
        bookmark.check(consumer)
        require_existing(session, bookmark.place)
        if bookmark.place > bookmark_of(consumer).place:
            _move(consumer, Landing(bookmark.place, bookmark.at))
            consumer.committed_at = moment(session)
            session.flush()
        return view_of_consumer(consumer, project_id)


def seek_place(
    database: Database, events: Database, secret_keys: tuple[str, ...], operator: Operator, name: str, to: str
) -> ConsumerView:
    """Put a consumer at `to`: `start`, `now`, a moment, or a cursor of its own, however old.

    `events` is the database that reads them. The audit entry can undo it.

    Cursors that were given before are worth nothing from now on: a worker that was at its work would else commit one of
    them, and undo the seek. Raises Conflict, SchemaValidationFailed and NotFound.
    """
    found = _at_moment(database, events, operator, name, to)
    with mutation(database, operator) as session:
        consumer, project_id = find_consumer(session, operator, name, is_to_change=True)
        cursors = ConsumerCursors(secret_keys, consumer)
        before = bookmark_of(consumer)
        landing = found or _landing(session, cursors, operator, to)
        if landing.place != before.place:
            _move(consumer, landing)
            consumer.seek_number = randbits(63)
            consumer.updated_at = next_updated_at(session, consumer.updated_at)
            session.flush()
            moved = Mutation(
                action="consumer.seek",
                object_id=consumer.public_id,
                project_row=consumer.project_id,
                before=_shown(cursors, before),
                after=_shown(cursors, bookmark_of(consumer)),
            )
            record(session, operator.author, moved)
        return view_of_consumer(consumer, project_id)


def _at_moment(database: Database, events: Database, operator: Operator, name: str, to: str) -> Landing | None:
    """Where a moment is, which takes other transactions to find out; None: `to` is none, or all came before it."""
    moment_asked = moment_in(to)
    if moment_asked is None:
        return None
    with database.transaction(operator.workspace_id) as session:
        consumer, _ = find_consumer(session, operator, name)
    return at_moment(events, operator.workspace_id, consumer.project_id, moment_asked)


def _landing(session: Session, cursors: ConsumerCursors, operator: Operator, to: str) -> Landing:
    if to == NOW or moment_in(to) is not None:
        return at_now(session, operator.workspace_id)
    if to == START:
        return AT_START
    bookmark = cursors.read(to, pointer="/to")
    require_existing(session, bookmark.place)
    return Landing(bookmark.place, bookmark.at)


def _move(consumer: Consumer, landing: Landing) -> None:
    place: Place = landing.place
    consumer.position, consumer.event_uid, consumer.position_at = place.position, place.event_uid, landing.at


def _shown(cursors: ConsumerCursors, bookmark: Bookmark) -> dict[str, object]:
    """For the audit log: a cursor to seek to, and a moment for people."""
    return {"cursor": cursors.write(bookmark), "position_at": bookmark.at}
