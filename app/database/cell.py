"""Which cell a database holds: written by `migrate`, checked by every process that starts.

A process that was given the database of another cell would mint ids that proxies send elsewhere, and number rows as
another cell does.
"""

from typing import Final

from sqlalchemy import Connection, Engine, text

from app.cells.names import row_ids
from app.database.engine import ask

_OWN: Final = text("SELECT name FROM cells WHERE is_own")
_MAY_READ: Final = text("SELECT has_table_privilege('cells', 'SELECT')")
_HAS_CELLS: Final = text("SELECT to_regclass('cells') IS NOT NULL")
_NAME: Final = text("""
    INSERT INTO cells (name, is_own) VALUES (:name, true)
    ON CONFLICT (name) DO UPDATE SET is_own = true
""")
# By their identity columns: sequences of other kinds, such as the positions of events, are no cell's.
_SEQUENCES: Final = text("""
    SELECT pg_get_serial_sequence(attrelid::regclass::text, attname) AS name
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE attidentity <> '' AND relnamespace = current_schema()::text::regnamespace
    ORDER BY name
""")
_ENDS: Final = text("SELECT seqmax FROM pg_sequence WHERE seqrelid = CAST(:name AS regclass)")


class WrongCellError(Exception):
    """The database holds another cell than LARIBA_CELLS names; the message is one line that says what to do."""


def cell_mismatch(connection: Connection, name: str) -> str | None:
    """Why this database is not that of the cell, in one line; None if it is. An empty name is that of no cell."""
    if not connection.execute(_MAY_READ).scalar_one():  # a role that `migrate` has given no rights can do nothing else
        return None
    own = connection.execute(_OWN).scalar_one_or_none() or ""
    if own == name:
        return None
    if not own:
        return (
            f"LARIBA_CELLS says {name}, and the database has no name yet: run `flask --app wsgi migrate`,"
            " which gives it this one for good"
        )
    return f"the database is that of the cell {own}, and LARIBA_CELLS says {name or 'nothing'}"


def require_cell(engine: Engine, name: str) -> None:
    """Raise WrongCellError if the database is that of another cell. Passes if the database is away."""
    if mismatch := ask(engine, lambda connection: cell_mismatch(connection, name)):
        raise WrongCellError(mismatch)


def bind_cell(connection: Connection, name: str) -> None:
    """Give the database the cell's name, for good; as the owner. Safe to repeat.

    Raises WrongCellError if it has another name.
    """
    if not connection.execute(_HAS_CELLS).scalar_one():  # the schema is before a019
        return
    own = connection.execute(_OWN).scalar_one_or_none()
    if own is not None and own != name:
        raise WrongCellError(cell_mismatch(connection, name))
    if name:
        connection.execute(_NAME, {"name": name})


def number_rows(connection: Connection, name: str) -> None:
    """Give rows the cell's range of ids; as the owner. Safe to repeat.

    Rows that are there keep their ids, which no cell with a name uses.
    """
    if not name or not connection.execute(_HAS_CELLS).scalar_one():
        return
    ids = row_ids(name)
    for sequence in connection.execute(_SEQUENCES).scalars().all():
        if connection.execute(_ENDS, {"name": sequence}).scalar_one() != ids[-1]:
            connection.execute(text(f"ALTER SEQUENCE {sequence} MAXVALUE {ids[-1]} START {ids[0]} RESTART {ids[0]}"))
