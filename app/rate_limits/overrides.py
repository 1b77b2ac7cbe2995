"""The limits of single keys and workspaces: each process reads all of them at once, beside the ingest path."""

from dataclasses import dataclass, field

from sqlalchemy import text

from app.database.engine import Database, TenantScope

# By the partial indexes ix_…_limited: few rows, however many keys there are.
_KEYS = text("SELECT id, events_per_second AS rate FROM source_keys WHERE events_per_second IS NOT NULL")
_WORKSPACES = text("SELECT id, events_per_second AS rate FROM workspaces WHERE events_per_second IS NOT NULL")
_WORKSPACE_KEYS = text(
    "SELECT id, key_events_per_second AS rate FROM workspaces WHERE key_events_per_second IS NOT NULL"
)
_DEADLINE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Overrides:
    """Events per second by row."""

    keys: dict[int, int] = field(default_factory=dict)
    workspaces: dict[int, int] = field(default_factory=dict)
    keys_by_workspace: dict[int, int] = field(default_factory=dict)
    """The limit of each key that has none of its own, by the row of its workspace."""


def read_overrides(database: Database) -> Overrides:
    """All overrides as they are now. Raises StorageUnavailable."""
    with database.transaction(TenantScope.ALL, deadline_seconds=_DEADLINE_SECONDS) as session:
        keys, workspaces, keys_by_workspace = (
            {row.id: row.rate for row in session.execute(statement)}
            for statement in (_KEYS, _WORKSPACES, _WORKSPACE_KEYS)
        )
    return Overrides(keys, workspaces, keys_by_workspace)
