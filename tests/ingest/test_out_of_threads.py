"""A machine that is out of threads: what needs one is refused or waits, and nothing of it stays when there are some."""

import threading
from functools import partial

import psycopg
import pytest

from app.config import Settings
from app.context import Context
from app.database.advisory_locks import workspace_lock
from app.errors import StorageUnavailable
from app.ingest import contention
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Outcome, Verdict
from tests.support.people import Tenant
from tests.support.scripted_connections import ScriptedConnections, attempt_of, identity_of, new_committer
from tests.support.waiting import wait_until

# A busy machine has the time that it takes.
_PATIENT_SECONDS = 15.0
_COMMITTER = ["committer", "committer-time", "committer-ticks"]


class _Machine:
    """Starts no thread of the names that it cannot have; notes all that it was to start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full_for: set[str] = set()
        self.started: list[str] = []
        self.refused: list[str] = []
        start = threading.Thread.start

        def start_or_refuse(thread: threading.Thread) -> None:
            if thread.name in self.full_for:
                self.refused.append(thread.name)
                raise RuntimeError("can't start new thread")
            self.started.append(thread.name)
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", start_or_refuse)

    def has_refused(self, times: int) -> bool:
        return len(self.refused) == times


@pytest.fixture(name="machine")
def _machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(monkeypatch)


def test_an_attempt_without_a_committer_is_refused_and_takes_no_place(
    context: Context, connections: ScriptedConnections, alice: Tenant, machine: _Machine
) -> None:
    """And whichever thread is there already is not started again."""
    committer = new_committer(context, connections, queue_events_max=2, storage_deadline_seconds=_PATIENT_SECONDS)
    results: list[WriteResult] = []
    for name in _COMMITTER:
        machine.full_for = {name}
        with pytest.raises(StorageUnavailable):
            committer.submit(identity_of(alice), attempt_of(alice), results.append)
    machine.full_for = set()

    assert committer.store(identity_of(alice), attempt_of(alice)).outcome is Outcome.STORED
    assert results == []
    assert machine.started == _COMMITTER


def test_attempts_of_a_workspace_in_trouble_wait_until_a_thread_for_them_can_be_started(
    settings: Settings, context: Context, connections: ScriptedConnections, alice: Tenant, machine: _Machine
) -> None:
    """However often one could not be."""
    committer = new_committer(context, connections, storage_deadline_seconds=_PATIENT_SECONDS)
    results: list[WriteResult] = []
    machine.full_for = {"contention"}
    with psycopg.connect(settings.admin_database_url) as session:
        session.execute("SELECT pg_advisory_xact_lock(%s)", [workspace_lock(alice.workspace_row)])
        for refused in range(1, contention._THREADS + 1):  # noqa: SLF001
            committer.submit(identity_of(alice), attempt_of(alice), results.append)
            wait_until(partial(machine.has_refused, refused))
        machine.full_for = set()
        committer.submit(identity_of(alice), attempt_of(alice), results.append)
        wait_until(lambda: "contention" in machine.started)
        session.rollback()
    wait_until(lambda: len(results) == contention._THREADS + 1)  # noqa: SLF001

    assert {result.outcome for result in results if isinstance(result, Verdict)} == {Outcome.STORED}
    assert all(isinstance(result, Verdict) for result in results)
