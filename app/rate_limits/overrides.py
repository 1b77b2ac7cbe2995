"""Which keys and workspaces have a limit of their own: read as a whole by each process, never on the road."""

from dataclasses import dataclass, field

from sqlalchemy import text

from app.database import Database

# By the partial indexes of migration 0005: few rows, however many keys there are.
_KEYS = text("SELECT id, events_per_second FROM source_keys WHERE events_per_second IS NOT NULL")
_WORKSPACES = text("SELECT id, events_per_second FROM workspaces WHERE events_per_second IS NOT NULL")
_DEADLINE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Overrides:
    """Events per second by row."""

    keys: dict[int, int] = field(default_factory=dict)
    workspaces: dict[int, int] = field(default_factory=dict)


def read_overrides(database: Database) -> Overrides:
    """All of them, as they are now. Raises StorageUnavailable."""
    with database.transaction(deadline_seconds=_DEADLINE_SECONDS) as session:
        keys, workspaces = session.execute(_KEYS).all(), session.execute(_WORKSPACES).all()
    return Overrides(
        {row.id: row.events_per_second for row in keys}, {row.id: row.events_per_second for row in workspaces}
    )
