"""Consumers as their owners see them: make, list, read, delete."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func
from sqlalchemy.orm import Session

from app.audit.entries import Mutation, record
from app.database.advisory_locks import exclude_parents
from app.database.engine import Database
from app.errors import Conflict, Fault, NotFound, PreconditionFailed, SchemaValidationFailed
from app.events.consumers.places import AT_START, NOW, START, Landing, at_moment, at_now, moment_in
from app.events.feed.cursors import FeedCursors
from app.events.feed.restored import require_existing
from app.events.names import find_project, note_project, resolved
from app.events.query.parsing import parse
from app.events.query.printing import print_query
from app.identifiers import new_public_id
from app.management.common.etags import Target, etag_of
from app.management.common.lookup import equal_if_given
from app.management.common.mutations import insert, mutation
from app.management.common.names import PATH_NAME
from app.management.common.operators import Operator
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.views import View, view_of
from app.models import Consumer, Project

CONSUMERS_MAX: Final = 100
"""Of a workspace."""

_NAME: Final = re.compile(PATH_NAME)
_WRONG_NAME: Final = "1 to 100 letters, digits, dots, underscores and hyphens (ASCII), no dot at the beginning."
_OTHER: Final = (
    'There is a consumer named "{name}" already, of another project or with another query. Delete that one, or take'
    " another name."
)
# That the name is taken is all that is said: neither by what nor where.
_BEYOND_REACH: Final = (
    'The name "{name}" is taken in this workspace, outside the projects of your token. Take another name.'
)
_TOO_MANY: Final = (
    f"This workspace has {CONSUMERS_MAX} consumers, which is the most. Delete one that is not used: GET /v1/consumers"
    " shows when each has committed last."
)
_FOREIGN_START: Final = (
    "Must be start, now, a moment with its offset, or a next_cursor that your token got of the feed of this project and"
    " query."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerView(View):
    name: str
    project_id: str
    q: str
    position_at: datetime | None
    committed_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewConsumer:
    project_id: str
    q: str = ""
    start: str = NOW
    """`start`, `now`, a moment, or a cursor of the feed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerFilter:
    """Which consumers a list has; None: all."""

    project_id: str | None = None


def consumers_within(operator: Operator) -> Select[Any]:
    """Consumers of projects within the caller's reach, archived or not; each with its project's public id."""
    return (
        Consumer.within(operator.workspace_id)
        .join(Project, Project.id == Consumer.project_id)
        .where(operator.reaches(Consumer.project_id))
        .add_columns(Project.public_id)
    )


def find_consumer(
    session: Session, operator: Operator, name: str, *, is_to_change: bool = False
) -> tuple[Consumer, str]:
    """A consumer and its project's public id; if it is to change, no other change of it begins until the commit.

    Raises NotFound, alike for names that another project, another workspace or nothing has.
    """
    query = consumers_within(operator).where(Consumer.name == name)
    if is_to_change:
        query = query.with_for_update(key_share=True, of=Consumer).execution_options(populate_existing=True)
    row = session.execute(query).one_or_none() if _NAME.fullmatch(name) else None
    if row is None:
        raise NotFound
    consumer, project_id = row
    note_project(project_id)
    return consumer, project_id


def put_consumer(
    database: Database,
    events: Database,
    secret_keys: tuple[str, ...],
    operator: Operator,
    name: str,
    new: NewConsumer,
) -> tuple[ConsumerView, bool]:
    """The consumer with this name, and whether it is new; one that is there already stays as and where it is.

    `events` is the database that reads them.
    Raises Conflict if the name has another project or query, or if there are too many; SchemaValidationFailed and
    NotFound.
    """
    if not _NAME.fullmatch(name):
        raise SchemaValidationFailed(faults=(Fault("/name", _WRONG_NAME),))
    node = parse(new.q)
    q = print_query(node)
    found = _at_moment(database, events, operator, new)
    with mutation(database, operator) as session:
        project = find_project(session, operator, new.project_id)
        resolved(session, operator, project.id, node)
        consumer = _existing(session, operator, name, project.id, q)
        is_new = consumer is None
        if consumer is None:
            # Only one is made at a time: two must not both be the hundredth, nor both have the name.
            exclude_parents(session, operator.workspace_id)
            consumer = _existing(session, operator, name, project.id, q)
            is_new = consumer is None
        if consumer is None:
            _check_number(session, operator)
            place, at = found or _start(session, secret_keys, operator, new, q)
            consumer = Consumer(
                public_id=new_public_id("csm"),
                workspace_id=operator.workspace_id,
                project_id=project.id,
                name=name,
                q=q,
                position=place.position,
                event_uid=place.event_uid,
                position_at=at,
            )
            insert(session, operator, consumer, "consumer.create", {"name": name, "q": q, "start": new.start})
        return view_of_consumer(consumer, project.public_id), is_new


def list_consumers(
    database: Database, operator: Operator, only: ConsumerFilter, request: PageRequest
) -> Page[ConsumerView]:
    query = consumers_within(operator).where(equal_if_given(Project.public_id, only.project_id))
    with database.transaction(operator.workspace_id) as session:
        listing = Listing(f"consumers {only.project_id}", query, view_of_consumer)
        return listing.page(session, operator.workspace_id, request)


def read_consumer(database: Database, operator: Operator, name: str) -> ConsumerView:
    with database.transaction(operator.workspace_id) as session:
        return view_of_consumer(*find_consumer(session, operator, name))


def delete_consumer(database: Database, operator: Operator, target: Target) -> None:
    """Forget a consumer. Its cursors are refused from now on, also by another one of the same name."""
    with mutation(database, operator) as session:
        consumer, _ = find_consumer(session, operator, target.public_id, is_to_change=True)
        if not target.condition.is_met_by(etag_of(consumer.public_id, consumer.updated_at)):
            raise PreconditionFailed
        shown = {"name": consumer.name, "q": consumer.q, "position_at": consumer.position_at}
        session.delete(consumer)
        deleted = Mutation(
            action="consumer.delete",
            object_id=consumer.public_id,
            project_row=consumer.project_id,
            before=shown,
            after=dict.fromkeys(shown),
        )
        record(session, operator.author, deleted)


def view_of_consumer(consumer: Consumer, project_id: str) -> ConsumerView:
    return view_of(ConsumerView, consumer, project_id=project_id)


def _existing(session: Session, operator: Operator, name: str, project_row: int, q: str) -> Consumer | None:
    """The consumer with this name, if it has this project and query. Raises Conflict if it has not."""
    named = Consumer.within(operator.workspace_id).where(Consumer.name == name)
    consumer: Consumer | None = session.scalars(named).one_or_none()
    if consumer is None or (consumer.project_id, consumer.q) == (project_row, q):
        return consumer
    is_reached = operator.project_rows is None or consumer.project_id in operator.project_rows
    message = (_OTHER if is_reached else _BEYOND_REACH).format(name=name)
    raise Conflict(message, faults=(Fault("/name", "This name is taken."),))


def _check_number(session: Session, operator: Operator) -> None:
    counting = Consumer.within(operator.workspace_id).with_only_columns(func.count())
    if session.execute(counting).scalar_one() >= CONSUMERS_MAX:
        raise Conflict(_TOO_MANY)


def _at_moment(database: Database, events: Database, operator: Operator, new: NewConsumer) -> Landing | None:
    """Where a moment is, which takes other transactions to find out; None: it names none, or all came before it."""
    moment = moment_in(new.start)
    if moment is None:
        return None
    with database.transaction(operator.workspace_id) as session:
        project = find_project(session, operator, new.project_id)
    return at_moment(events, operator.workspace_id, project.id, moment)


def _start(
    session: Session, secret_keys: tuple[str, ...], operator: Operator, new: NewConsumer, normalized: str
) -> Landing:
    if new.start == NOW or moment_in(new.start) is not None:
        return at_now(session, operator.workspace_id)
    if new.start == START:
        return AT_START
    cursors = FeedCursors.of(secret_keys, operator, new.project_id, normalized)
    try:
        place = cursors.read(new.start)
    except SchemaValidationFailed:
        raise SchemaValidationFailed(faults=(Fault("/start", _FOREIGN_START),)) from None
    require_existing(session, place)
    return Landing(place, None)
