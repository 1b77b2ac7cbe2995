"""How a command fails: one line on stderr and exit status 1, without a traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from alembic.util import CommandError
from psycopg import Error as PsycopgError
from psycopg.errors import UndefinedColumn, UndefinedTable
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from app.cells.moving.stages import MoveError
from app.database.cell import WrongCellError
from app.database.citus.distribute import ClusterError
from app.database.migrate import UnknownSchemaError
from app.errors import OutcomeUnknown, Refusal

_OUTCOME_UNKNOWN = "The database was lost while it committed: the change may have been made or not. Look first."
_SCHEMA_BEHIND = "The schema is behind this code: run `flask --app wsgi migrate` first."


@contextmanager
def one_line_failures() -> Iterator[None]:
    """Turn what the operator can act on into a ClickException; a bug in this code keeps its traceback."""
    try:
        yield
    except OutcomeUnknown as error:
        raise click.ClickException(_OUTCOME_UNKNOWN) from error
    except Refusal as error:
        cause = f" ({first_line(error.__cause__)})" if error.__cause__ else ""
        raise click.ClickException(f"{error.message}{cause}") from error
    except ProgrammingError as error:
        is_schema_behind = isinstance(error.orig, UndefinedTable | UndefinedColumn)
        raise click.ClickException(_SCHEMA_BEHIND if is_schema_behind else first_line(error)) from error
    except (
        SQLAlchemyError,
        PsycopgError,
        CommandError,
        UnknownSchemaError,
        WrongCellError,
        ClusterError,
        MoveError,
        ValueError,
        OSError,
    ) as error:
        raise click.ClickException(first_line(error)) from error


def first_line(error: BaseException) -> str:
    """What of an error an operator reads."""
    return (str(error) or type(error).__name__).splitlines()[0]
