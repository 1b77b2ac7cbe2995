"""What an operator's shell does with cells: it alone knows the databases of several."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, text

from app.config import Settings
from app.database.cell import WrongCellError, cell_mismatch
from app.database.owner import owner_engine

# Of all tables of the schema, with their partitions and indexes: another cell may lie in the same database.
_STATE: Final = text("""
    SELECT (SELECT is_draining FROM cells WHERE is_own) AS is_draining,
        (SELECT count(*) FROM workspaces WHERE home IS NULL) AS workspaces,
        (SELECT coalesce(sum(pg_total_relation_size(oid)), 0) FROM pg_class
            WHERE relnamespace = current_schema()::text::regnamespace AND relkind = 'r')::bigint AS bytes
""")
_LEARN: Final = text("""
    INSERT INTO cells (name, is_draining) SELECT name, is_draining
    FROM unnest(CAST(:names AS text[]), CAST(:draining AS boolean[])) AS other (name, is_draining)
    ON CONFLICT (name) DO UPDATE SET is_draining = excluded.is_draining WHERE NOT cells.is_own
""")
_DRAIN: Final = text("UPDATE cells SET is_draining = :is_draining WHERE name = :name")


@dataclass(frozen=True, kw_only=True, slots=True)
class CellState:
    """A cell, as its own database shows it."""

    name: str
    is_draining: bool
    """No new workspace is made in it."""
    workspaces: int
    bytes: int
    """On disk, indexes included."""


def read_state(settings: Settings) -> CellState:
    """Of one cell, which has a name. Raises SQLAlchemyError, and WrongCellError if its URL is that of another one."""
    with owner_of(settings) as connection:
        row = connection.execute(_STATE).one()
    return CellState(name=settings.cell, is_draining=bool(row.is_draining), workspaces=row.workspaces, bytes=row.bytes)


def introduce(cells: Sequence[Settings]) -> None:
    """Let each of these cells know of all others, so that it names them to who has come to the wrong one.

    Safe to repeat, and needed again after one was away. Raises as read_state() does.
    """
    states = [read_state(each) for each in cells]
    for each in cells:
        others = [state for state in states if state.name != each.cell]
        known = {"names": [other.name for other in others], "draining": [other.is_draining for other in others]}
        with owner_of(each) as connection:
            connection.execute(_LEARN, known)


def drain(cells: Sequence[Settings], name: str, *, is_draining: bool) -> None:
    """Make no new workspace in a cell, or make them there again. Raises as read_state() does."""
    for each in cells:
        with owner_of(each) as connection:
            connection.execute(_DRAIN, {"name": name, "is_draining": is_draining})


def emptiest(states: Sequence[CellState]) -> CellState:
    """Where a new workspace goes. Raises ValueError if all are draining."""
    open_ones = [state for state in states if not state.is_draining]
    if not open_ones:
        raise ValueError("No cell takes new workspaces: name the one in which it is to be made (--cell).")
    return min(open_ones, key=lambda state: state.bytes)


@contextmanager
def owner_of(settings: Settings) -> Iterator[Connection]:
    """A transaction of the tables' owner, whom row security does not bind."""
    engine = owner_engine(settings.admin_database_url)
    try:
        with engine.begin() as connection:
            # A URL that stands under another cell's name would have this one's workspaces counted, or made, there.
            if (mismatch := cell_mismatch(connection, settings.cell)) is not None:
                raise WrongCellError(mismatch)
            yield connection
    finally:
        engine.dispose()
