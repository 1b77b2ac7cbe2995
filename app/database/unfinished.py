"""The groups of events that ingest has begun to store and not yet committed.

Each holds an advisory lock that says when it began (app/database/sql/store_events.sql, step 2): its moment of receipt
is not earlier. Who reads the clock first, and then this, knows that what was received before both is visible to the
next statement, or never will be.
"""

from typing import Final

OLDEST_UNFINISHED: Final = """
    SELECT to_timestamp((min(classid::bigint << 32 | objid::bigint) - x'6c75000000000000'::bigint) / 1000.0)
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND classid::bigint << 32 BETWEEN x'6c75000000000000'::bigint AND x'6c75ffffffffffff'::bigint
"""
"""When the oldest group that is under way began; NULL if there is none."""
