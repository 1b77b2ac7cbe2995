"""`python -m bench.citus --plain URL --owner URL --other URL …`: what an event costs PostgreSQL on a Citus cluster.

Each URL is the app's way to a migrated cell: on plain PostgreSQL of the same version, through the node of the cluster
that has the cell's rows, and through one that has not. All servers run on this machine, and their user and system time
counts, that of every node of the cluster: `--cluster` has a URL for each. Groups are stored as the committer does it.
"""

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any, Final

import psutil
import psycopg

from app.credentials.verification import Identity
from app.database.conninfo import conninfo_of
from app.database.dedicated_connection import DedicatedConnection
from app.database.engine import Database
from app.identifiers import uuid7
from app.ingest.envelope import Attempt, Envelope
from app.ingest.storage import Outcome, store
from bench.rows import PAYLOAD

_GROUPS: Final = (1, 16, 64)
_IDLE_SECONDS: Final = 6.0
_SENDER: Final = """
    SELECT key.id, key.workspace_id, key.public_id, source.public_id
    FROM source_keys AS key JOIN sources AS source ON source.id = key.source_id
    WHERE key.revoked_at IS NULL ORDER BY key.id LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Way:
    """To a cell, and the servers whose work counts."""

    connection: DedicatedConnection
    identity: Identity
    source_id: str
    servers: tuple[psutil.Process, ...]
    idle: float
    """What these take of a core while nobody sends, as a share; not counted."""

    def turn(self, group: int, seconds: float) -> float:
        """Microseconds of PostgreSQL's CPU for an event."""
        before, events, began = _cpu_seconds(self.servers), 0, time.monotonic()
        while time.monotonic() < began + seconds:
            attempts = [(self.identity, self._attempt()) for _ in range(group)]
            verdicts = store(self._run, attempts, idempotency_ttl_seconds=86_400, lock_wait_seconds=0.02, waits=False)
            if any(verdict.outcome is not Outcome.STORED for verdict in verdicts):
                raise RuntimeError(verdicts)
            events += group
        idle = self.idle * (time.monotonic() - began)
        return 1e6 * (_cpu_seconds(self.servers) - before - idle) / events

    def _run(self, statement: str, parameters: Any) -> list[Any]:
        return self.connection.run(statement, parameters, time.monotonic() + 10)

    def _attempt(self) -> Attempt:
        uid = uuid7()
        envelope = Envelope(
            event_id=f"evt_{str(uid)[::-1]}",
            event_type="order.created",
            source_id=self.source_id,
            environment=None,
            severity="info",
            occurred_at=None,
            payload=PAYLOAD.encode(),
            fingerprint=uid.bytes * 2,
        )
        return Attempt(envelope=envelope, idempotency_key=None, event_uid=uid)


def _cpu_seconds(servers: tuple[psutil.Process, ...]) -> float:
    total = 0.0
    for server in servers:
        for process in (server, *server.children()):
            times = process.cpu_times()
            total += times.user + times.system
        total += server.cpu_times().children_user + server.cpu_times().children_system
    return total


def main() -> None:
    """Measure and print."""
    arguments = _read_arguments()
    nodes = tuple(_postmaster(url) for url in arguments.cluster)
    ways = {
        "plain": _way(arguments.plain, (_postmaster(arguments.plain),)),
        "owner": _way(arguments.owner, nodes),
        "other": _way(arguments.other, nodes),
    }
    for group in arguments.groups:
        found: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way.turn(group, 1.0)
        for n in range(arguments.rounds):
            # Each goes first as often as the others.
            for name in sorted(ways, key=lambda name: (list(ways).index(name) + n) % len(ways)):
                found[name].append(ways[name].turn(group, arguments.seconds))
        plain = found["plain"]
        print(f"groups of {group}: plain {statistics.median(plain):.0f} us ({min(plain):.0f} to {max(plain):.0f})")
        for name in ("owner", "other"):
            ratios = [mine / theirs for mine, theirs in zip(found[name], plain, strict=True)]
            print(
                f"    {name} {statistics.median(found[name]):.0f} us,"
                f" {statistics.median(ratios):.2f} x ({min(ratios):.2f} to {max(ratios):.2f})",
                flush=True,
            )


def _way(url: str, servers: tuple[psutil.Process, ...]) -> Way:
    database = Database(url, pool_size=1, lock_timeout_seconds=1.0)
    with psycopg.connect(**conninfo_of(url)) as connection:
        # A setting of no server on plain PostgreSQL, which ignores it.
        connection.execute("SET citus.propagate_set_commands = 'local'")
        connection.execute("SET LOCAL lariba.all_workspaces = 'on'")
        row = connection.execute(_SENDER).fetchone()
    if row is None:
        raise SystemExit(f"no source key in {url}: `flask --app wsgi workspace create` makes one")
    before = _cpu_seconds(servers)
    time.sleep(_IDLE_SECONDS)
    idle = (_cpu_seconds(servers) - before) / _IDLE_SECONDS
    identity = Identity(row_id=row[0], workspace_id=row[1], public_id=row[2])
    return Way(database.dedicated_connection(), identity, row[3], servers, idle)


def _postmaster(url: str) -> psutil.Process:
    with psycopg.connect(**conninfo_of(url)) as connection:
        server = psutil.Process(connection.info.backend_pid).parent()
    if server is None:
        raise SystemExit(f"the server of {url} is not on this machine")
    return server


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench.citus", description=__doc__)
    parser.add_argument("--plain", required=True, metavar="URL")
    parser.add_argument("--owner", required=True, metavar="URL")
    parser.add_argument("--other", required=True, metavar="URL")
    parser.add_argument("--cluster", required=True, nargs="+", metavar="URL", help="one for each node")
    parser.add_argument("--groups", nargs="+", type=int, default=list(_GROUPS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each turn (1.5)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
