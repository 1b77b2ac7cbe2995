"""Whether the database can hold every character, and orders text as it did when it was made."""

import structlog
from sqlalchemy import Engine, text

from app.database.engine import ask

_log = structlog.get_logger()

# No name of an encoding: a driver might not be able to read it in that of the database.
_LOCALE = text("""
    SELECT getdatabaseencoding() = 'UTF8' AS is_utf8, datcollversion AS recorded,
        pg_database_collation_actual_version(oid) AS actual
    FROM pg_database WHERE datname = current_database()
""")
_NOT_UTF8 = (
    "the database in LARIBA_DATABASE_URL is not in the encoding UTF8, so it cannot hold every character of an event:"
    " make it anew with ENCODING 'UTF8' (deploy/roles.sql)"
)


class EncodingError(Exception):
    """The database cannot hold every character; the message is one line that says what to do."""


def require_utf8(engine: Engine) -> None:
    """Raise EncodingError if the database is in another encoding. Passes if the database is away.

    Logs a warning if the C library's order of text has changed since the database was made. No index of ours relies on
    it (migrations/versions/a001_control_plane.py), but those of other programs in the database may.
    """
    found = ask(engine, lambda connection: connection.execute(_LOCALE).one())
    if found is None:
        return
    if not found.is_utf8:
        raise EncodingError(_NOT_UTF8)
    if found.recorded != found.actual:
        _log.warning("database_collation_changed", recorded=found.recorded, actual=found.actual)
