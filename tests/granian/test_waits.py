"""A common event waits for its own body and its own result, and in the name of its own workspace."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from app.config import Settings
from app.credentials.verification import Identity
from app.errors import BadRequest, StorageUnavailable
from app.granian.bodies import BodyReader
from app.granian.bounds import Bounds
from app.granian.threads import SharedThreads
from app.granian.waits import Loop, LoopWaits
from app.ingest.fast_path import PendingRequest
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Outcome, Verdict
from app.wire.body_reads import ENDED_EARLY

_ALICE, _CHARLIE = 1, 2
_BUSY_SECONDS_MAX = 30.0
_LENGTH = 2


@dataclass
class _Protocol:
    """Has this body, or breaks off with this error; with None, the body does not come."""

    body: bytes | Exception | None = b"{}"
    reads: int = 0

    def __call__(self) -> Awaitable[bytes]:
        self.reads += 1
        found: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if isinstance(self.body, Exception):
            found.set_exception(self.body)
        elif self.body is not None:
            found.set_result(self.body)
        return found


@contextmanager
def _process(settings: Settings) -> Iterator[Loop]:
    """The smallest: with two threads, and 32 bodies of one workspace."""
    own = replace(settings, server_threads=1)
    threads = SharedThreads(2, "tried")
    try:
        yield Loop(asyncio.get_running_loop(), BodyReader(own, Bounds.of(own)), threads)
    finally:
        threads.shutdown()


def _waits(shared: Loop, workspace: int, protocol: _Protocol | None = None, committer: object = None) -> LoopWaits:
    pending = PendingRequest({}, Identity("key_1", 1, workspace), _LENGTH, "req_1", 0.0)
    return LoopWaits(pending, cast(Any, protocol or _Protocol()), shared, cast(Any, committer))


def test_what_takes_a_thread_takes_the_turn_of_its_workspace(settings: Settings) -> None:
    came = []
    may_end = threading.Event()

    def note_and_let_go() -> None:
        came.append("charlie")
        may_end.set()

    async def scenario() -> list[Any]:
        with _process(settings) as shared:
            works: list[tuple[int, Callable[[], Any]]] = [
                (_ALICE, lambda: may_end.wait(_BUSY_SECONDS_MAX)),
                (_ALICE, lambda: came.append("alice")),
                (_CHARLIE, note_and_let_go),
            ]
            return await asyncio.gather(*(_waits(shared, workspace).run(work) for workspace, work in works))

    is_let_go, *_ = asyncio.run(scenario())

    assert is_let_go, "the other workspace has waited for a thread"
    assert came == ["charlie", "alice"]


def test_a_body_is_in_the_share_of_its_workspace(settings: Settings) -> None:
    async def scenario() -> bytes:
        with _process(settings) as shared:
            stalled = [asyncio.create_task(_waits(shared, _ALICE, _Protocol(None)).body()) for _ in range(32)]
            await asyncio.sleep(0)
            with pytest.raises(StorageUnavailable):
                await _waits(shared, _ALICE).body()
            assert not any(each.done() for each in stalled)
            return await _waits(shared, _CHARLIE).body()

    assert asyncio.run(scenario()) == b"{}"


@pytest.mark.parametrize("body", [b"", b"{", b"{}\n"], ids=["none", "shorter", "longer"])
def test_a_body_that_is_not_as_long_as_announced_is_refused_though_the_server_takes_it_for_whole(
    settings: Settings, body: bytes
) -> None:
    async def scenario() -> None:
        with _process(settings) as shared:
            await _waits(shared, _ALICE, _Protocol(body)).body()

    with pytest.raises(BadRequest, match=ENDED_EARLY):
        asyncio.run(scenario())


@pytest.mark.parametrize("body", [b"{}", b"{", ProtocolClosed("gone")], ids=["whole", "cut", "broken off"])
@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_body_is_read_once_and_what_is_wrong_with_one_that_is_not_wanted_is_no_error(
    settings: Settings, body: bytes | Exception, *, is_wanted: bool
) -> None:
    protocol = _Protocol(body)

    async def scenario() -> None:
        with _process(settings) as shared:
            waits = _waits(shared, _ALICE, protocol)
            if is_wanted:
                await asyncio.gather(waits.body(), return_exceptions=True)
            await waits.discard_body()

    asyncio.run(scenario())
    assert protocol.reads == 1


def test_what_the_committer_found_is_returned_or_raised(settings: Settings) -> None:
    async def stored(result: WriteResult) -> Verdict:
        def submit(_identity: object, _attempt: object, resolved: Callable[[WriteResult], None]) -> None:
            threading.Thread(target=resolved, args=[result]).start()

        with _process(settings) as shared:
            waits = _waits(shared, _ALICE, committer=SimpleNamespace(submit=submit))
            return await waits.stored(cast(Any, None), cast(Any, None))

    verdict = Verdict(Outcome.STORED, None)

    assert asyncio.run(stored(verdict)) is verdict
    with pytest.raises(StorageUnavailable):
        asyncio.run(stored(StorageUnavailable("the database is away")))
