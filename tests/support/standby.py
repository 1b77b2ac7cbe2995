"""A PostgreSQL with a standby that follows it, both the embedded ones, over Unix sockets."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psycopg

from local.postgres import _SOCKET_NAME, EmbeddedPostgres
from local.program import Runner
from local.server import make_private_folder
from tests.support.waiting import wait_until

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


class EmbeddedStandby(EmbeddedPostgres):
    """A copy of a running primary that follows it by the name "standby", until it is promoted."""

    def __init__(self, directory: Path, primary: EmbeddedPostgres, *, options: Mapping[str, str]) -> None:
        super().__init__(directory, options={"cluster_name": "standby", **options})
        self._primary = primary

    def provision(self) -> None:
        """It has the roles of the primary."""

    def _create_cluster(self, run: Runner) -> None:
        make_private_folder(self.directory)
        if self._account:
            os.chown(self.directory, self._account.uid, self._account.gid)
        command = ["pg_basebackup", "-D", self._data_argument(self.directory), "-h", str(self._primary.directory)]
        command += ["-U", "postgres", "--write-recovery-conf", "--checkpoint=fast", "--no-sync"]
        run(self._program("pg_basebackup", tuple(command), self.directory))
        # It was copied with the rest of the primary's folder, and protects the primary's socket.
        (self.directory / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Pair:
    primary: EmbeddedPostgres
    standby: EmbeddedStandby

    def url(self, user: str) -> str:
        """Of the one of the two that takes writes."""
        hosts = "&".join(f"host={server.directory}" for server in (self.primary, self.standby))
        return f"postgresql://{user}@/lariba?{hosts}&target_session_attrs=read-write"

    def have_both(self) -> None:
        """Wait until the standby has all that the primary has flushed."""
        place = ask(self.primary, "SELECT pg_current_wal_flush_lsn()")
        wait_until(lambda: ask(self.standby, "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", place))


def ask(server: EmbeddedPostgres, question: str, *parameters: object) -> Any:
    """What the superuser is answered: one value, or None to what is no question."""
    with psycopg.connect(server.url("postgres", "lariba"), autocommit=True) as connection:
        answer = connection.execute(question, parameters or None)
        row = answer.fetchone() if answer.description else None
    return row and row[0]


@contextmanager
def primary_and_standby(
    *, of_primary: Mapping[str, str] = _NO_OPTIONS, of_standby: Mapping[str, str] = _NO_OPTIONS
) -> Iterator[Pair]:
    """Both, and the standby follows."""
    both = {"fsync": "off", "max_connections": "200"}
    # Root's temporary folders are closed to the account that runs PostgreSQL, whose standby opens the primary's socket.
    folder = Path(tempfile.mkdtemp(prefix="lariba-pair-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        with EmbeddedPostgres(folder / "primary", options={**both, **of_primary}) as primary:
            options = {**both, **of_standby}
            with EmbeddedStandby(folder / "standby", primary, options=options) as standby:
                wait_until(lambda: ask(primary, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'"))
                yield Pair(primary, standby)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
