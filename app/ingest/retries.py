"""The retry policy of storing, for groups (committer.py), for one workspace (contention_round.py) and for batches.

Every attempt carries a uid that the storage function recognises in what it wrote, so a repeated attempt stores nothing
twice. What follows from a try that fails:

- nothing was sent, or PostgreSQL takes no writes: refuse it (StorageUnavailable), unless an earlier try may be stored;
- the commit went unanswered (OutcomeUnknown): repeat it until PostgreSQL answers with its outcome, or answer "unknown";
- PostgreSQL refused the statement and rolled it back: see Failure.
"""

from enum import Enum, auto
from typing import Final

import psycopg
from psycopg.errors import DataError, DeadlockDetected, LockNotAvailable, SerializationFailure

from app.errors import Fault, SchemaValidationFailed, StorageUnavailable

PAUSE_SECONDS: Final = 0.05
"""Before the next try, when PostgreSQL is going down or coming back: so the processes do not hammer it."""


class Failure(Enum):
    """Why PostgreSQL refused a statement."""

    LOCKED = auto()
    """Another transaction holds a claim, a workspace or a table: wait for it."""
    ABORTED = auto()
    """Two transactions waited for each other, and this one was ended: repeat it at once."""
    UNSTORABLE = auto()
    """A value of one attempt: store the others, and refuse that one."""
    OTHER = auto()
    """The server is in trouble, or this code is wrong: refuse the attempt that it happens to alone."""


def failure_of(error: BaseException | None) -> Failure:
    """Why, by PostgreSQL's code for it."""
    if isinstance(error, LockNotAvailable):
        return Failure.LOCKED
    if isinstance(error, SerializationFailure | DeadlockDetected):
        return Failure.ABORTED
    return Failure.UNSTORABLE if isinstance(error, DataError) else Failure.OTHER


def refusal_by_database(error: psycopg.Error) -> Exception:
    """What the producer is answered for an attempt that PostgreSQL refuses; a fault of ours stays itself."""
    if isinstance(error, DataError):
        return caused_by(error, unstorable(error))
    if isinstance(error, psycopg.OperationalError):
        return caused_by(error, StorageUnavailable())
    return error


def unstorable(error: DataError) -> SchemaValidationFailed:
    """The refusal of an event with a value that the readers let through and PostgreSQL does not."""
    said = error.diag.message_primary or "it cannot be stored"
    return SchemaValidationFailed(faults=(Fault("", f"The database refuses it: {said}."),))


def caused_by(cause: BaseException | None, refusal: Exception) -> Exception:
    """`refusal`, with the inner error for the log."""
    refusal.__cause__ = cause
    return refusal
