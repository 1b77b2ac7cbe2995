"""Whether a pool's database is a cell of a Citus cluster, and what its connections do differently there."""

from functools import partial
from typing import Any, Final, Self

import psycopg
from psycopg.abc import Params, Query
from psycopg.errors import InternalError_

from app.database.citus.statements import as_set_local, at_the_rows, on_shards, with_text, writes_to_shards

_HAS_CITUS: Final = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'citus')"
_IS_CELL: Final = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_dist_schema WHERE schemaid = current_schema()::text::regnamespace)
"""
# A transaction that has only called functions has read, for all that Citus knows: if the connection to the cell's node
# is lost before COMMIT, it answers COMMIT with success, and nothing was stored. With a write to a table of the cell it
# reports the loss. The row does not exist, and the index says so.
_WRITE_OF_NOTHING: Final = """
    DELETE FROM idempotency_records WHERE project_id = 0 AND source_id = 0 AND idempotency_key = ''
"""
# What a session's settings say (engine.py) stays on the node that the client speaks to. So a transaction has these for
# the node that has the rows, beside its scope.
_FOR_THE_CELL: Final = ("SET LOCAL synchronous_commit = 'on'", "SET LOCAL timezone = 'UTC'")
# The classes of errors that end a statement on the cell's node before its commit: of a value, a constraint, a lock.
_ROLLED_BACK: Final = frozenset(("0A", "21", "22", "23", "40", "42", "54", "55", "P0"))


class Cluster:
    """Asked on the first connection that a process makes to a database; the answer holds for its life."""

    def __init__(self) -> None:
        self.is_citus = False
        self._is_known = False

    def join(self, connection: psycopg.Connection[Any], *, is_single: bool) -> None:
        """Make a new connection send its statements to where the cell's rows lie.

        `is_single`: each is a transaction of its own. The connection is closed where that fails.
        """
        try:
            self._join(connection, is_single=is_single)
        except BaseException:
            connection.close()
            raise

    def _join(self, connection: psycopg.Connection[Any], *, is_single: bool) -> None:
        if not self._is_known:
            self.is_citus = lies_on_cluster(connection)
            self._is_known = True
        if self.is_citus:
            connection.execute("SET citus.propagate_set_commands = 'local'")
            connection.cursor_factory = _SingleCursor if is_single else _Cursor

    def has_rolled_back(self, error: psycopg.Error) -> bool:
        """Whether an error that the server reports, of a statement that is a transaction, says that nothing was stored.

        On a cluster it may be the report of another node that the connection to the cell's node was lost.
        """
        return not self.is_citus or (error.sqlstate or "")[:2] in _ROLLED_BACK


def lies_on_cluster(connection: psycopg.Connection[Any]) -> bool:
    """Whether the connection's schema is a cell of a Citus cluster."""
    if connection.execute(_HAS_CITUS).fetchone() != (True,):
        return False
    return connection.execute(_IS_CELL).fetchone() == (True,)


class _NamingCursor(psycopg.Cursor[Any]):
    """Names what Citus reports of other nodes."""

    def execute(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        run = partial(super().execute, prepare=prepare, binary=binary)
        try:
            return run(query, params)
        except InternalError_ as error:
            # It has lost a node, or is being ended itself: no fault of the statement.
            raise psycopg.OperationalError(str(error)) from error


class _SingleCursor(_NamingCursor):
    """For statements that are transactions: Citus sends a call to the cell's node as it is, without a plan for it."""

    def execute(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        run = partial(super().execute, prepare=prepare, binary=binary)
        return run(with_text(query, params) if isinstance(query, str) else query, params)


class _Cursor(_NamingCursor):
    """Sends statements as statements.py says."""

    def execute(
        self, query: Query, params: Params | None = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        run = partial(super().execute, prepare=prepare, binary=binary)
        if not isinstance(query, str):
            return run(query, params)
        if (settings := as_set_local(query, params)) is not None:
            for setting in (*settings, *(_FOR_THE_CELL if "'lariba." in query else ())):
                run(setting)
            return self
        query, params = on_shards(query, params)
        if writes_to_shards(query):
            run(_WRITE_OF_NOTHING)
        return run(at_the_rows(query), params)
