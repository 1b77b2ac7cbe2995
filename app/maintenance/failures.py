"""How the failure of a run is told: by what PostgreSQL said, with its SQLSTATE, and in one line where that is all."""

from typing import Final

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import OperationalError as EngineOperationalError

from app.database.clock import ClockSkewError
from app.database.owner import OwnerBusyError
from app.errors import StorageUnavailable

# What happens to us, and not what we do wrong: a database is lost, a lock is held, a disk is full, a clock is off.
_OF_THE_WORLD: Final = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    EngineOperationalError,
    StorageUnavailable,
    OwnerBusyError,
    ClockSkewError,
)


def is_of_the_world(error: Exception) -> bool:
    """Whether the place in our code at which it came up tells nothing: then a traceback would be noise."""
    return isinstance(error, _OF_THE_WORLD)


def in_one_line(error: BaseException) -> str:
    """Class, SQLSTATE and message of what is behind it all."""
    cause = _behind(error)
    state = getattr(cause, "sqlstate", None)
    code = f" ({state})" if state else ""
    return " ".join(f"{type(cause).__name__}{code}: {cause}".split())


def _behind(error: BaseException) -> BaseException:
    """StorageUnavailable and SQLAlchemy's errors only wrap what PostgreSQL or the network said."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig
    if isinstance(error, StorageUnavailable) and error.__cause__ is not None:
        return _behind(error.__cause__)
    return error
