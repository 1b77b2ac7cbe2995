"""Backends that end at a chosen moment, and a wire that falls silent or breaks: how PostgreSQL gets lost."""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from app.database.conninfo import conninfo_of
from app.database.engine import Database
from tests.support.databases import close

# The last moments of a transaction count as well: whatever is said then goes through them.
_MOMENTS = ("before_cursor_execute", "rollback", "commit")


class Loss:
    """Counts the moments at which this thread speaks to PostgreSQL, and ends the backend at one of them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.moments = 0

    @property
    def has_happened(self) -> bool:
        return self.moments > self.at


@contextmanager
def losing_backend(engine: Engine, database_url: str, at: int) -> Iterator[Loss]:
    """Within the block the backend of this thread's pooled connection is ended at the `at`-th moment."""
    loss, here = Loss(at), threading.current_thread()

    def strike(connection: Any, *_: object) -> None:
        if threading.current_thread() is not here or connection.invalidated:
            return
        if loss.moments == loss.at:
            end_backend(database_url, connection.connection.driver_connection.info.backend_pid)
        loss.moments += 1

    for moment in _MOMENTS:
        event.listen(engine, moment, strike)
    try:
        yield loss
    finally:
        for moment in _MOMENTS:
            event.remove(engine, moment, strike)


def end_backend(database_url: str, pid: int) -> None:
    """End a backend of our own role, and wait until it has gone."""
    with psycopg.connect(**conninfo_of(database_url), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 20000) FROM pg_stat_activity WHERE pid = %s", [pid])


class Wire:
    """Stands between a Database and PostgreSQL, and may break or fall silent, for the connections of before too."""

    def __init__(self, database_url: str) -> None:
        keywords = conninfo_of(database_url)
        host, port = str(keywords.get("host") or "127.0.0.1"), int(keywords.get("port") or 5432)
        self._there: Any = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)
        self._family = socket.AF_UNIX if host.startswith("/") else socket.AF_INET
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._is_silent = threading.Event()
        keywords |= {"host": "127.0.0.1", "port": self._listener.getsockname()[1]}
        self.arguments: dict[str, Any] = keywords
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def url(self) -> str:
        """Of the database at the other end."""
        named = self.arguments
        password = f":{named['password']}" if "password" in named else ""
        return f"postgresql://{named['user']}{password}@127.0.0.1:{named['port']}/{named['dbname']}"

    def fall_silent(self) -> None:
        """PostgreSQL hears what is said, and nothing comes back."""
        self._is_silent.set()

    def break_now(self) -> None:
        """Reset each connection; who connects afterwards is hung up on."""
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RD)
            end.close()

    close = break_now

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(self._family)
                there.connect(self._there)
                self._open += [here, there]
                threading.Thread(target=self._carry, args=(here, there), daemon=True).start()
                threading.Thread(target=self._carry, args=(there, here, self._is_silent), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_silent: threading.Event | None = None) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65_536):
                if is_silent is None or not is_silent.is_set():
                    target.sendall(chunk)


@contextmanager
def wired(database_url: str, pool_size: int = 2) -> Iterator[tuple[Database, Wire]]:
    """A Database of its own behind a wire."""
    wire = Wire(database_url)
    database = Database(wire.url, pool_size=pool_size)
    try:
        yield database, wire
    finally:
        close(database)
        wire.close()
