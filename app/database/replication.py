"""Places in the log of a primary, and how far a standby has replayed it. Knows no table.

The statements need no right that a role has to be given.
"""

from datetime import datetime
from typing import Final, NamedTuple

# A standby has the same numbers. The role is among them, because a start proves of the primary's alone that row level
# security binds it.
_DATABASE: Final = """
    SELECT concat_ws(' ', system_identifier, pg_database.oid, pg_namespace.oid, current_user)
    FROM pg_control_system(), pg_database, pg_namespace
    WHERE datname = current_database() AND nspname = current_schema()
"""
# The log as it is flushed, and not as it is written into memory: what is visible was flushed before (we set
# synchronous_commit), and the end of what is in memory may be no end of a record, which no standby ever reaches while
# nothing follows.
LOG_MARK: Final = f"""
    SELECT ({_DATABASE}) AS database,
        ('x' || left(pg_walfile_name(place), 8))::bit(32)::int AS timeline,
        pg_wal_lsn_diff(place, '0/0')::bigint AS place
    FROM (SELECT CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_flush_lsn() END AS place) AS log
"""
"""The LogMark of a primary; its place is NULL on a server that is none."""

# The timeline as the control file has it: it gets there some time after the standby has followed a new primary, and
# never on a standby that follows the old one.
REPLAYED: Final = f"""
    SELECT pg_is_in_recovery() AS is_standby,
        CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS is_paused,
        ({_DATABASE}) AS database,
        greatest(
            (SELECT timeline_id FROM pg_control_checkpoint()),
            (SELECT min_recovery_end_timeline FROM pg_control_recovery())
        ) AS timeline,
        coalesce(pg_wal_lsn_diff(pg_last_wal_replay_lsn(), '0/0')::bigint, 0) AS place,
        pg_postmaster_start_time() AS started_at
"""
"""The Replayed of a standby."""


class LogMark(NamedTuple):
    """A place in the log of a primary. Places of other clusters, or of other timelines of one, say nothing of it."""

    database: str
    """The cluster, and in it the database, the schema and the role."""
    timeline: int
    place: int


class Replayed(NamedTuple):
    """How far a server has replayed the log."""

    is_standby: bool
    """No: it is a primary itself."""
    is_paused: bool
    database: str
    timeline: int
    place: int
    started_at: datetime
    """Tells servers apart."""

    def has(self, mark: LogMark) -> bool:
        """Whether all that was visible at the mark is visible to the next statement here."""
        return (
            self.is_standby
            and (self.database, self.timeline) == (mark.database, mark.timeline)
            and self.place >= mark.place
        )
