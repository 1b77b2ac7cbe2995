"""Opens the transactions in which events are read: read only, and bounded by the kind of the query."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from psycopg.errors import QueryCanceled
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from app.database.engine import Database
from app.errors import QueryTooBroad, StorageUnavailable

DAYS_AT_ONCE: Final = 8
"""How many days (partitions) one statement touches at the most. It locks each of them and each of its indexes, and the
server has one table for all locks: a query over a year would take half of it from ingest."""

# Beyond the statement's own bound: for the others of the same transaction, and the way.
_DEADLINE_MARGIN_SECONDS: Final = 1.0


class QueryClass(NamedTuple):
    """A kind of queries, and how long one statement of it may take."""

    seconds: float
    can_be_narrowed: bool = True
    """Whether a caller could ask for less. Else a statement that takes long says of the database that it is slow."""


LOOK_UP: Final = QueryClass(1.0, can_be_narrowed=False)
SEARCH: Final = QueryClass(2.0)
FEED: Final = QueryClass(1.0)
COUNTS: Final = QueryClass(4.0)
EXPORT: Final = QueryClass(8.0)
LAG: Final = QueryClass(0.5)


@contextmanager
def reading(database: Database, workspace_id: int, query_class: QueryClass) -> Iterator[Session]:
    """A transaction that reads the events of one workspace.

    Raises StorageUnavailable, and QueryTooBroad if a statement of what can be narrowed takes longer than its class may.
    """
    seconds = query_class.seconds
    deadline_seconds = seconds + _DEADLINE_MARGIN_SECONDS
    with database.transaction(workspace_id, deadline_seconds=deadline_seconds, reads_for_seconds=seconds) as session:
        try:
            yield session
        except DBAPIError as error:
            if isinstance(error.orig, QueryCanceled):
                raise (QueryTooBroad if query_class.can_be_narrowed else StorageUnavailable) from error
            raise
