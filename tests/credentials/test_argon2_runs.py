"""Who waits for an argon2 run when all are taken: never one workspace for another, nor a token for keys."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from app.concurrency.limit import ConcurrencyLimit
from app.credentials import verification
from app.credentials.verification import Credentials, Identity, StoredCredential
from app.errors import StorageUnavailable
from tests.support.hashers import CountingHasher
from tests.support.waiting import wait_until

# Each holds or waits for as long as the test has not let the runs finish.
_PATIENCE_SECONDS = 60.0
_BUSY, _CALM = 3, 4


@pytest.fixture(name="hasher")
def _hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture(name="credentials")
def _credentials(hasher: CountingHasher, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    """Two runs at once, of which one workspace has one at the most."""
    monkeypatch.setattr(verification, "_WAIT_SECONDS", _PATIENCE_SECONDS)
    monkeypatch.setattr(verification, "_WAITING_PER_WORKSPACE", 1)
    return Credentials(("s" * 40,), argon2_runs_max=2, hasher=hasher)


@pytest.fixture(name="threads")
def _threads(hasher: CountingHasher) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads
        hasher.may_finish.set()


@pytest.mark.parametrize(("kind", "workspace"), [("sk", _CALM), ("mt", _BUSY)])
def test_unproven_keys_of_one_workspace_leave_a_run_to_others_and_to_its_tokens(
    credentials: Credentials, hasher: CountingHasher, threads: ThreadPoolExecutor, kind: Any, workspace: int
) -> None:
    proofs = [_proof(credentials, "sk", _BUSY), _proof(credentials, "sk", _BUSY), _proof(credentials, kind, workspace)]
    hasher.may_finish.clear()

    first = [threads.submit(proof) for proof in proofs[:2]]
    wait_until(lambda: hasher.runs == 1 and _waiting(credentials._argon2) == 1)  # noqa: SLF001
    other = threads.submit(proofs[2])
    wait_until(lambda: hasher.runs == 2 or _waiting(credentials._argon2) == 2)  # noqa: SLF001

    assert hasher.runs == 2
    hasher.may_finish.set()
    assert all(each.result() for each in [*first, other])


def test_of_those_who_issue_another_workspace_comes_before_the_queue_of_one(
    credentials: Credentials, hasher: CountingHasher, threads: ThreadPoolExecutor
) -> None:
    order: list[int] = []
    of_thread = threading.local()
    hasher.during_a_run = lambda: order.append(of_thread.workspace)
    hasher.may_finish.clear()

    def issue(workspace: int) -> object:
        of_thread.workspace = workspace
        return credentials.mint("sk", workspace)

    issued: list[Future[object]] = []
    for workspace, waiting in ((_BUSY, 0), (_BUSY, 1), (_CALM, 2)):
        issued.append(threads.submit(issue, workspace))
        wait_until(lambda waiting=waiting: order and _waiting(credentials._issuing) == waiting)  # type: ignore[misc]  # noqa: SLF001
    with pytest.raises(StorageUnavailable):
        credentials.mint("sk", _BUSY)  # one of its own waits already
    hasher.may_finish.set()

    assert all(each.result() for each in issued)
    assert order == [_BUSY, _CALM, _BUSY]


def _waiting(limit: ConcurrencyLimit) -> int:
    return len(limit._waiting)  # noqa: SLF001 - whether a thread waits shows nowhere else


def _proof(credentials: Credentials, kind: Any, workspace: int) -> Callable[[], bool]:
    """Proves a new credential of the workspace that has no digest."""
    minted = credentials.mint(kind)
    credential = credentials.parse(minted.text, kind)
    assert credential is not None
    stored = StoredCredential(Identity(credential.public_id, 7, workspace), minted.secret_hash, None)
    return lambda: credentials.verify(credential, lambda _: stored) is not None
