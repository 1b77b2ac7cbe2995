"""Where a workspace stands between two cells: all of it is in its two rows, and nowhere else (docs/decisions/0027).

| stage | in the old cell | in the new one | |
| --- | --- | --- | --- |
| not begun | | no row, or what was left by an earlier move | |
| copying | `moving_to` | `home`: the old cell | it goes on in the old cell |
| frozen | `moving_to`, `frozen_at` | `home`: the old cell | it waits |
| arrived | `moving_to`, `frozen_at` | without `home` | it lives in the new cell, and the old one does not say so yet |
| left | `home`: the new cell | without `home` | it is over, but for rows to be deleted |

Each step is one transaction of one cell. So a crash leaves one of these, in none of which both cells store. Both rows
bear the id of the move, so that a row which a backup has brought back is not taken for one of these.
"""

from enum import Enum, auto
from typing import Final, NamedTuple

from app.cells.moving.tables import Connection
from app.config import Settings, variable_of
from app.database.citus.cluster import lies_on_cluster

_READ: Final = "SELECT id, moving_to, frozen_at IS NOT NULL, home, move_id FROM workspaces WHERE public_id = %s"
_OWN_NAME: Final = "SELECT name FROM cells WHERE is_own"
_REVISION: Final = "SELECT version_num FROM alembic_version"
# How long the two cells keep what, of which the new one may keep nothing for a shorter time: None is for ever.
_KEPT: Final = ("retention_days", "event_id_days", "idempotency_ttl_seconds")


class MoveError(Exception):
    """It cannot begin, or not go on; the message is one line that says why."""


class Stage(Enum):
    NOT_BEGUN = auto()
    COPYING = auto()
    FROZEN = auto()
    ARRIVED = auto()
    LEFT = auto()


class Cells(NamedTuple):
    """The two cells of a move: their names."""

    old: str
    new: str


class _Row(NamedTuple):
    id: int
    moving_to: str | None
    is_frozen: bool
    home: str | None
    move_id: str | None


def require_fit(source: Settings, target: Settings) -> None:
    """Raise MoveError if the new cell could not open the keys, or would forget sooner what has been promised."""
    if not set(source.secret_key) <= set(target.secret_key):
        raise MoveError("the new cell lacks a secret of LARIBA_SECRET_KEY of the old one: keys would not open there")
    for name in _KEPT:
        old, new = getattr(source, name), getattr(target, name)
        if new is not None and (old is None or new < old):
            kept = "for ever" if old is None else old
            raise MoveError(f"{variable_of(name)} is {new} in {target.cell}, and {kept} in {source.cell}")


def require_pair(source: Connection, target: Connection, cells: Cells) -> None:
    """Raise MoveError unless the connections lead to these two cells, and both have the same schema."""
    for connection, name in zip((source, target), cells, strict=True):
        found = connection.execute(_OWN_NAME).fetchone()
        if found != (name,):
            raise MoveError(f"the database of {name} is that of {found[0] if found else 'no cell'}")
        if lies_on_cluster(connection):
            raise MoveError("workspaces do not move to or from a cell on a Citus cluster (docs/scaling.md)")
    if source.execute(_REVISION).fetchone() != target.execute(_REVISION).fetchone():
        raise MoveError("the two cells have other schemas: migrate both first")


def read_stage(source: Connection, target: Connection, cells: Cells, public_id: str) -> tuple[int, Stage]:
    """The row id of the workspace and its stage, for who holds the move's lock in both cells.

    Raises MoveError for any other pair of rows: one of the cells was restored, or the move is another one.
    """
    here, there = (each.execute(_READ, [public_id]).fetchone() for each in (source, target))
    if here is None:
        raise MoveError(f"there is no workspace with this id in {cells.old}")
    row = _Row(*here)
    lives_there = there is not None and _Row(*there).home is None
    is_this_move = there is not None and _Row(*there).move_id == row.move_id
    if row.home == cells.new:
        if not lives_there or not is_this_move:
            raise MoveError(f"{cells.old} says that it lives in {cells.new}, where it does not: was one restored?")
        return row.id, Stage.LEFT
    if row.home is not None:
        raise MoveError(f"it lives in the cell {row.home}")
    if row.moving_to not in (None, cells.new):
        raise MoveError(f"it is moving to the cell {row.moving_to}: end that move first, or take it back")
    if lives_there:
        if row.moving_to is None or not row.is_frozen or not is_this_move:
            raise MoveError(f"it lives in {cells.old} and in {cells.new}: was one restored?")
        return row.id, Stage.ARRIVED
    if row.moving_to is None:
        return row.id, Stage.NOT_BEGUN
    return row.id, Stage.FROZEN if row.is_frozen else Stage.COPYING
