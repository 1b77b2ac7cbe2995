"""A machine that is out of threads: what needs one is refused or waits, and nothing of it stays when there are some."""

import threading

import pytest

from app.context import Context
from app.errors import StorageUnavailable
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Outcome
from tests.ingest.scripted_lanes import ScriptedLanes, attempt_of, identity_of, new_committer
from tests.people import Tenant


class _Machine:
    """Starts no thread of the names that it lacks room for; notes all that it was to start."""

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


@pytest.fixture(name="machine")
def _machine(monkeypatch: pytest.MonkeyPatch) -> _Machine:
    return _Machine(monkeypatch)


def test_an_attempt_without_a_committer_is_refused_and_takes_no_place(
    house: Context, lanes: ScriptedLanes, alice: Tenant, machine: _Machine
) -> None:
    """And whichever thread is there already is not started again."""
    committer = new_committer(house, lanes, queue_events_max=2, storage_deadline_seconds=15.0)
    results: list[WriteResult] = []
    for name in ("committer", "committer-time"):
        machine.full_for = {name}
        with pytest.raises(StorageUnavailable):
            committer.submit(identity_of(alice), attempt_of(alice), results.append)
    machine.full_for = set()

    assert committer.store(identity_of(alice), attempt_of(alice)).outcome is Outcome.STORED
    assert results == []
    assert sorted(machine.started) == ["committer", "committer-time"]
