"""The embedded PostgreSQL: one data folder, reached by a Unix socket only.

It trusts every client that can open the socket, so the socket's folder is private. Durability is the product's promise:
fsync is on unless a test turns it off.
"""

import contextlib
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import Signals
from types import MappingProxyType
from typing import Self
from urllib.parse import quote

import psycopg

from local.account import database_account, owner_name
from local.errors import EmbeddedError
from local.guard import wait_until
from local.program import Account, Program, Runner
from local.roles import create_roles_and_database
from local.server import EmbeddedServer, make_private_folder
from local.sockets import remove_if_spare, socket_directory
from local.wheels import POSTGRES_MAJOR, postgres_binaries

SUPERUSER = "postgres"
_SOCKET_NAME = ".s.PGSQL.5432"
_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})
# Clients of the socket are trusted, so no other user may open it.
_OPTIONS: Mapping[str, str] = MappingProxyType(
    {
        "listen_addresses": "",
        "unix_socket_permissions": "0700",
        "timezone": "UTC",
        "log_timezone": "UTC",
        # Four processes less: three for read-ahead, one for subscriptions.
        "io_method": "sync",
        "max_logical_replication_workers": "0",
    }
)
_STRAY_SECONDS = 5.0

# The server's account may be unable to traverse the parents of the data folder (/root, a private temporary folder), and
# their modes are not changed. So root enters the folder before it changes the account, every child inherits the working
# directory, and this link resolves to it without the parents.
_WORKING_DIRECTORY = "/proc/self/cwd"


class EmbeddedPostgres(EmbeddedServer):
    """`server.url("lariba_app", "lariba")`, `server.stop()`, `server.start()`, `server.pid`."""

    name = "postgres"
    immediate_signal = Signals.SIGQUIT
    _account: Account | None
    _binaries: Path

    def __init__(self, directory: Path, *, log: Path | None = None, options: Mapping[str, str] = _NO_OPTIONS) -> None:
        """`options` are settings of postgresql.conf, such as {"fsync": "off"} for a test."""
        super().__init__(directory, log=log)
        self._socket_directory = self.directory
        self._options = options

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self.provision()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def prepare(self, run: Runner) -> None:
        self._account = database_account()
        self._binaries = postgres_binaries(self._account)
        # Root may own an empty folder, which is replaced; a database in it must belong to the account.
        self._check_owner(os.geteuid(), *([self._account.uid] if self._account else []))
        if not (self.directory / "PG_VERSION").exists():
            self._create_cluster(run)
        self._check_version()
        self._check_owner(self._account.uid if self._account else os.geteuid())
        self._find_socket()
        self._disown_foreign_pid()

    def program(self) -> Program:
        self._find_socket()
        # "." is the data folder, the server's working directory: no character of its path needs quoting.
        socket = "." if self._socket_directory == self.directory else str(self._socket_directory)
        options = {**_OPTIONS, **self._options}
        settings = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        command = ("postgres", "-D", self._data_argument(self.directory), "-k", socket, *settings)
        return replace(
            self._program(self.name, command, self.directory),
            # Fast shutdown ends the sessions; immediate shutdown skips the checkpoint too.
            stop_signals=((Signals.SIGINT, 20.0), (Signals.SIGQUIT, 5.0)),
            end_strays=self._end_strays,
        )

    def url(self, user: str, database: str) -> str:
        """A URL that libpq and SQLAlchemy read to the same socket (SQLAlchemy would read '+' as a space)."""
        host = quote(os.fsencode(self._socket_directory), safe="/")
        return f"postgresql://{quote(user, safe='')}@/{quote(database, safe='')}?host={host}"

    @property
    def superuser_url(self) -> str:
        return self.url(SUPERUSER, "postgres")

    def is_ready(self) -> bool:
        try:
            psycopg.connect(self.superuser_url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def provision(self) -> None:
        create_roles_and_database(self.superuser_url)

    def tidy(self) -> None:
        remove_if_spare(self._socket_directory, self.directory)

    def _find_socket(self) -> None:
        self._socket_directory = socket_directory(self.directory, _SOCKET_NAME, self._account)

    def _create_cluster(self, run: Runner) -> None:
        """Create it in a draft folder and rename that: an interrupted run leaves no partial database."""
        draft = self.directory.with_name(f".{self.directory.name}.draft")
        shutil.rmtree(draft, ignore_errors=True)
        make_private_folder(draft)
        if self._account:
            os.chown(draft, self._account.uid, self._account.gid)
        command = [
            "initdb",
            "-D",
            self._data_argument(draft),
            "-U",
            SUPERUSER,
            "--encoding=UTF8",
            "--no-locale",
        ]
        # The collation must not depend on the locales of the machine.
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        command += ["--auth-local=trust", "--auth-host=reject"]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        run(self._program("initdb", tuple(command), draft))
        try:
            draft.rename(self.directory)
        except OSError as error:
            raise EmbeddedError(f"{self.directory} holds something, but no database: {error.strerror}") from error

    def _check_owner(self, *allowed: int) -> None:
        if self.directory.exists() and (owner := self.directory.stat().st_uid) not in allowed:
            whose = f"{self.directory} belongs to {owner_name(owner)}"
            raise EmbeddedError(f"{whose}: start as the user who made it, or use another folder")

    def _check_version(self) -> None:
        version = (self.directory / "PG_VERSION").read_text().strip()
        if version != POSTGRES_MAJOR:
            raise EmbeddedError(f"{self.directory} was made by PostgreSQL {version}, this is {POSTGRES_MAJOR}")

    def _disown_foreign_pid(self) -> None:
        """After a power cut, the pid in postmaster.pid may belong to another program, and PostgreSQL would not start.

        It takes the pid of its parent, which is this process, for stale, and then still proves by the shared memory
        that the file names that no server uses the folder. So the pid is replaced, and the rest of the file kept.
        """
        pid = self._recorded_pid()
        if pid and Path(f"/proc/{pid}").exists() and not self._works_here(pid):
            lock_file = self.directory / "postmaster.pid"
            _, _, rest = lock_file.read_text().partition("\n")
            lock_file.write_text(f"{os.getpid()}\n{rest}")
            # It protects the socket only, has the same pid, and is checked before the shared memory.
            (self._socket_directory / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)

    def _recorded_pid(self) -> int | None:
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int((self.directory / "postmaster.pid").read_text().partition("\n")[0])
        return None

    def _end_strays(self) -> None:
        """Kill the backends of a killed server that have not noticed it yet.

        Each is in a session of its own and checks for its server when it waits next. Until then its shared memory would
        keep the next server from starting.
        """
        strays = [pid for pid in _processes_named("postgres") if self._works_here(pid)]
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, Signals.SIGKILL)
        wait_until(lambda: not any(self._works_here(pid) for pid in strays), _STRAY_SECONDS)

    def _works_here(self, pid: int) -> bool:
        # The data folder is the server's working directory. Without /proc (macOS) PostgreSQL's own check must suffice.
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cwd").samefile(self.directory)
        return False

    def _data_argument(self, directory: Path) -> str:
        return _WORKING_DIRECTORY if self._account else str(directory)

    def _program(self, name: str, command: tuple[str, ...], directory: Path) -> Program:
        return Program(
            name=name,
            command=(str(self._binaries / command[0]), *command[1:]),
            directory=directory,
            log=self.log,
            environment={"LC_ALL": "C", "PATH": os.environ.get("PATH", os.defpath)},
            account=self._account,
        )


def _processes_named(name: str) -> list[int]:
    """From Linux's /proc; empty elsewhere."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "comm").read_text().strip() == name:
                found.append(int(process.name))
    return found
