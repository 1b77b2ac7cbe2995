"""Counts are as many as the events in every snapshot, while all that writes them runs twice and is ended at random."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from sqlalchemy.exc import SQLAlchemyError

from app.credentials.verification import Identity
from app.database.engine import TenantScope
from app.database.owner import OwnerBusyError
from app.errors import StorageUnavailable
from app.identifiers import uuid7
from app.ingest.envelope import Attempt, read_envelope
from app.ingest.storage import store
from app.maintenance.default_partition import move_default_partition_rows
from app.maintenance.event_counts import Difference, correct_counts
from app.maintenance.partitions import attached_partitions
from app.maintenance.retention import delete_expired_events, drop_old_partitions
from app.maintenance.usage import fold_usage
from app.wire.exact_json import read_object
from tests.support import holding
from tests.support.counting_events import differences
from tests.support.holding import Root
from tests.support.installation import Installation, noon
from tests.support.people import Tenant, execute
from tests.support.sending import event_for
from tests.support.servers import ENDED
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.wiring, pytest.mark.slow]

_ROUNDS = 3
"""How often each must have done its work."""
# What a task meets when its session is ended, or another one holds what it wants.
_OBSTACLES = (psycopg.Error, StorageUnavailable, SQLAlchemyError, OwnerBusyError)
_END_ONE = f"""
    SELECT {ENDED} FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
        AND query NOT LIKE '%sum(events)::int%' ORDER BY random() LIMIT 1
"""


@dataclass
class _Fire:
    """Today's events, which go into the default partition, are moved, expire, and are dropped with their day."""

    installation: Installation
    tenants: list[Tenant]
    is_over: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=dict)
    """How often each has done something."""

    @property
    def later(self) -> datetime:
        """By the clock of those that delete: today is past each retention of a day."""
        return noon(datetime.now(UTC).date() + timedelta(days=2))

    def send(self) -> int:
        chance = random.Random()
        tenant = chance.choice(self.tenants)
        identity = Identity(row_id=tenant.key_row, workspace_id=tenant.workspace_row, public_id=tenant.key_id)
        attempts = [(identity, _attempt(tenant, chance)) for _ in range(chance.randint(1, 20))]
        with self.installation.database.transaction(TenantScope.ALL) as session:
            execute = session.connection().exec_driver_sql
            store(
                lambda statement, parameters: execute(statement, tuple(parameters)).all(),
                attempts,
                idempotency_ttl_seconds=60,
                # A drop waits for a writer who waits for the day that is dropped; the writer gives up first.
                lock_wait_seconds=0.2,
            )
        return len(attempts)

    def fold(self) -> int:
        return fold_usage(self.installation.database, batch_rows=7).rows

    def move(self) -> int:
        return move_default_partition_rows(self.installation.owner, batch_rows=50, rests=0).rows

    def expire(self) -> int:
        return delete_expired_events(self.installation.owner, now=self.later, batch_rows=20).rows

    def drop(self) -> int:
        return drop_old_partitions(self.installation.owner, now=self.later, days=1).rows

    def compare(self) -> int:
        with self.installation.owner.locked() as connection:
            partitions = attached_partitions(connection)
            found = {correct_counts(connection, partition) for partition in partitions}
        assert found <= {Difference(0, 0, 0)}
        return len(partitions)

    def check(self) -> int:
        assert differences(self.installation) == []
        return 1

    def until_over(self, name: str, step: Callable[[], int], pause: float) -> None:
        while not self.is_over.wait(pause):
            try:
                with suppress(*_OBSTACLES):
                    has_worked = step() > 0
                    self.done[name] = self.done.get(name, 0) + has_worked
            except AssertionError:
                self.is_over.set()
                raise


def _attempt(tenant: Tenant, chance: random.Random) -> Attempt:
    name = str(uuid7())
    event = event_for(
        tenant, event_id=name, event_type=chance.choice(["a", "a.b", "c"]), severity=chance.choice(["info", "error"])
    )
    envelope = read_envelope(read_object(json.dumps(event).encode()))
    return Attempt(envelope=envelope, idempotency_key=name, event_uid=uuid7())


@pytest.fixture(name="root")
def _root(installation: Installation, server_url: str) -> Iterator[Root]:
    with holding.root_of(server_url, installation.settings) as root:
        yield root


@contextmanager
def _burning(fire: _Fire) -> Iterator[None]:
    work = [
        *(("send", fire.send, 0.01),) * 3,
        *(("fold", fire.fold, 0.02),) * 2,
        *(("move", fire.move, 0.2),) * 2,
        *(("drop", fire.drop, 1.0),) * 2,
        ("expire", fire.expire, 0.1),
        ("compare", fire.compare, 0.3),
        *(("check", fire.check, 0.05),) * 2,
    ]
    with ThreadPoolExecutor(len(work)) as pool:
        running = [pool.submit(fire.until_over, *each) for each in work]
        try:
            yield
        finally:
            fire.is_over.set()
        for each in running:
            each.result()


def test_counts_are_true_in_every_snapshot_whatever_is_ended(installation: Installation, root: Root) -> None:
    tenants = [installation.tenant() for _ in range(3)]
    short = "UPDATE workspaces SET retention_days = 1 WHERE id = :id"
    execute(installation.context, short, id=tenants[0].workspace_row)
    fire = _Fire(installation, tenants)
    wanted = {"send", "fold", "move", "drop", "expire", "compare", "check"}

    def is_enough() -> bool:
        root.execute(_END_ONE)
        return fire.is_over.is_set() or all(fire.done.get(name, 0) >= _ROUNDS for name in wanted)

    with _burning(fire):
        wait_until(is_enough, 180, pause_seconds=1)

    assert differences(installation) == []
    fold_usage(installation.database)
    assert differences(installation) == []
