"""The waits of a common event on granian's event loop: no thread waits for its body or for its commit."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeVar

from granian.rsgi import HTTPProtocol  # type: ignore[attr-defined]

from app.credentials.verification import Identity
from app.errors import BadRequest, Refusal
from app.granian.bodies import BodyReader
from app.granian.handover import Handover
from app.granian.threads import SharedThreads
from app.ingest.committer import Committer
from app.ingest.envelope import Attempt
from app.ingest.fast_path import PendingRequest
from app.ingest.pending_write import WriteResult
from app.ingest.storage import Verdict
from app.wire.body_reads import ENDED_EARLY

Result = TypeVar("Result")


class Loop:
    """What the waits of all requests of a process share."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bodies: BodyReader, threads: SharedThreads) -> None:
        self.create_future = loop.create_future
        self.bodies = bodies
        self.threads = threads
        self.handover = Handover(loop)


class LoopWaits:
    """The waits of one request."""

    def __init__(self, pending: PendingRequest, protocol: HTTPProtocol, shared: Loop, committer: Committer) -> None:
        self._owner = pending.identity.workspace_id
        self._length = pending.length
        self._protocol = protocol
        self._shared = shared
        self._committer = committer
        self._is_read = False

    async def body(self) -> bytes:
        """The whole body. Raises BadRequest, BodyTimeout and StorageUnavailable."""
        self._is_read = True
        body = await self._shared.bodies.read_small(self._protocol, self._owner)
        if len(body) != self._length:  # not even a whole object in it may be stored
            raise BadRequest(ENDED_EARLY)
        return body

    async def discard_body(self) -> None:
        """Read it all the same, in the bounds of a body that is wanted."""
        if not self._is_read:
            with suppress(Refusal):
                await self.body()

    async def run(self, work: Callable[[], Result]) -> Result:
        """On a thread, when it is the workspace's turn."""
        return await self._shared.threads.run(self._owner, work)

    async def stored(self, identity: Identity, attempt: Attempt) -> Verdict:
        """As Committer.store()."""
        result: asyncio.Future[WriteResult] = self._shared.create_future()
        self._committer.submit(identity, attempt, partial(self._shared.handover.put, result))
        verdict = await result
        if isinstance(verdict, Exception):
            raise verdict
        return verdict
