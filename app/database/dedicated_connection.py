"""A connection to PostgreSQL whose waits are bounded, and one of these that a single thread uses. Knows no table."""

import select
import time
from collections.abc import Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import ReadOnlySqlTransaction
from psycopg.pq import TransactionStatus

from app.database.citus.cluster import Cluster
from app.errors import OutcomeUnknown, StorageUnavailable

Result = TypeVar("Result")

# For the first statements on a new connection.
_JOIN_SECONDS = 2.0


class DeadlineConnection(psycopg.Connection[Any]):
    """A connection that stops waiting at `deadline` (time.monotonic() seconds), whatever the server does.

    The server's own timeouts do not help against a server that is frozen or unreachable. A connection that ran into
    its deadline is closed: its next answer could be that of an earlier statement.
    """

    deadline: float | None = None

    def wait(self, gen: PQGen[Result], interval: float = 0.1, timeout: float | None = None) -> Result:
        """As psycopg's own; raises psycopg.OperationalError at the deadline."""
        if self.deadline is not None and timeout is None:
            timeout = max(0.0, self.deadline - time.monotonic())
        try:
            return super().wait(gen, interval, timeout)
        except psycopg.OperationalError:
            is_late = self.deadline is not None and time.monotonic() >= self.deadline
            if is_late or self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


class DedicatedConnection:
    """A connection on which each statement is a transaction: one exchange, one wait. For one thread.

    Waits are what costs a busy process: a thread that comes back from the network queues for the interpreter each time.
    """

    def __init__(self, arguments: dict[str, Any], cluster: Cluster) -> None:
        self._arguments = arguments
        self._cluster = cluster
        self._connection: DeadlineConnection | None = None

    def run(self, statement: str, parameters: Sequence[Any], deadline: float) -> list[Any]:
        """The rows of `statement`, committed; waits until `deadline` (time.monotonic() seconds).

        Raises StorageUnavailable if nothing was sent or PostgreSQL takes no writes, OutcomeUnknown if the connection
        was lost before the answer, and psycopg.Error for an error that the server reports, and so has rolled back.
        """
        connection = self._connect()
        connection.deadline = deadline
        try:
            return connection.execute(statement, parameters, prepare=True).fetchall()
        except ReadOnlySqlTransaction as error:
            raise StorageUnavailable from error
        except psycopg.Error as error:
            if connection.closed or not self._cluster.has_rolled_back(error):
                raise OutcomeUnknown from error
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> DeadlineConnection:
        if self._connection is None or self._connection.closed or has_hung_up(self._connection):
            self.close()
            try:
                connection = DeadlineConnection.connect(**self._arguments, autocommit=True)
                connection.deadline = time.monotonic() + _JOIN_SECONDS
                self._cluster.join(connection, is_single=True)
            except psycopg.Error as error:
                raise StorageUnavailable from error
            self._connection = connection
        return self._connection


def has_hung_up(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed it, or sent what no statement asked for; takes a microsecond."""
    poller = select.poll()
    poller.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poller.poll(0))
