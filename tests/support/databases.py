"""Ends a test's use of a database, whoever else still uses it."""

from sqlalchemy import event

from app.database.engine import Database


def close(database: Database) -> None:
    """Close its connections; one that a thread of the app has out (rate limits, refusals) closes when it comes back.

    The engine's own dispose() leaves that one to the garbage collector, and a later test to hear of it.
    """
    event.listen(database.engine, "checkin", lambda _, entry: entry.invalidate())
    database.engine.dispose()
