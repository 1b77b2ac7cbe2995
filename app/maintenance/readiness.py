"""Whether this process may work at all: what `/readyz` is to a web server. Knows nothing of the tasks.

A worker starts while the database is away, and waits for it. So what was not looked at then is looked at when the first
bell is heard. What is in the way is told once and not at each ring; the age of `canary` says how long it has lasted.
"""

import structlog

from app.database.engine import Database, TenantScope
from app.database.migrate import SchemaBehindError, behind
from app.database.row_security import RowSecurityMissingError, row_security_missing

_log = structlog.get_logger()


class Readiness:
    """Of one process, which hears one bell at a time."""

    def __init__(self, database: Database, *, needs_row_security: bool) -> None:
        self._database = database
        self._needs_row_security = needs_row_security
        self._is_proven = False
        self._told: str | None = None

    def require(self) -> None:
        """Raise StorageUnavailable, SchemaBehindError or RowSecurityMissingError; once in order, checks no more."""
        if self._is_proven:
            return
        with self._database.transaction(TenantScope.NONE) as session:
            connection = session.connection()
            if (missing := behind(connection)) is not None:
                raise SchemaBehindError(missing)
            if self._needs_row_security and (missing := row_security_missing(connection)) is not None:
                raise RowSecurityMissingError(missing)
        self._is_proven = True

    def tell(self, obstacle: Exception | None) -> None:
        """Log what has come into the way, or that it is gone, unless the log has said so already."""
        said = _first_line(obstacle.__cause__ or obstacle) if obstacle else None
        if said == self._told:
            return
        self._told = said
        if said is None:
            _log.info("maintenance_resumed")
        else:
            _log.error("maintenance_suspended", reason=said)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
