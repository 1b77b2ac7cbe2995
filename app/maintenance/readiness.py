"""Whether this worker process can work: the database is there, the schema current, row security on.

A worker starts while the database is away, and waits for it: the check runs at the first tick. An obstacle is logged
once and not at each tick; the age of the task `canary` shows how long it lasts.
"""

import structlog

from app.database.cell import WrongCellError, cell_mismatch
from app.database.engine import Database, TenantScope
from app.database.migrate import SchemaBehindError, behind
from app.database.row_security import RowSecurityMissingError, row_security_missing

_log = structlog.get_logger()


class Readiness:
    """Of one process, which handles one tick at a time."""

    def __init__(self, database: Database, *, cell: str = "", needs_row_security: bool) -> None:
        self._database = database
        self._cell = cell
        self._needs_row_security = needs_row_security
        self._is_proven = False
        self._logged: str | None = None

    def require(self) -> None:
        """Raise what is in the way: StorageUnavailable, SchemaBehindError, WrongCellError or RowSecurityMissingError.

        After a success it checks no more.
        """
        if self._is_proven:
            return
        with self._database.transaction(TenantScope.NONE) as session:
            connection = session.connection()
            if (missing := behind(connection)) is not None:
                raise SchemaBehindError(missing)
            if (mismatch := cell_mismatch(connection, self._cell)) is not None:
                raise WrongCellError(mismatch)
            if self._needs_row_security and (missing := row_security_missing(connection)) is not None:
                raise RowSecurityMissingError(missing)
        self._is_proven = True

    def report(self, obstacle: Exception | None) -> None:
        """Log a new obstacle, or that it is gone; one that is logged already is not logged again."""
        reason = _first_line(obstacle.__cause__ or obstacle) if obstacle else None
        if reason == self._logged:
            return
        self._logged = reason
        if reason is None:
            _log.info("maintenance_resumed")
        else:
            _log.error("maintenance_suspended", reason=reason)


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
