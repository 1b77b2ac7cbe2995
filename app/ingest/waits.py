"""What a request waits for, behind one interface: its body, blocking work, and the commit of its event.

The ingest path is written once, as coroutines. On a thread of a WSGI server every wait blocks, so that a coroutine runs
to its end in one step (`run_blocking`). On an event loop the same waits suspend it (app/granian).
"""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from app.credentials.verification import Identity
from app.ingest.committer import Committer
from app.ingest.envelope import Attempt
from app.ingest.storage import Verdict

Result = TypeVar("Result")


class Waits(Protocol):
    """The waits of one request."""

    async def body(self) -> bytes:
        """The whole body. Raises BadRequest, BodyTimeout, PayloadTooLarge, UnsupportedMediaType, StorageUnavailable."""

    async def run(self, work: Callable[[], Result]) -> Result:
        """What `work` returns or raises: it asks the database, or takes milliseconds."""

    async def stored(self, identity: Identity, attempt: Attempt) -> Verdict:
        """The verdict on the attempt, as Committer.store()."""


class BlockingWaits:
    """Waits that block the thread of the request."""

    def __init__(self, read_body: Callable[[], bytes], committer: Committer) -> None:
        self._read_body = read_body
        self._committer = committer

    async def body(self) -> bytes:
        """Read by `read_body`."""
        return self._read_body()

    async def run(self, work: Callable[[], Result]) -> Result:
        """On this thread."""
        return work()

    async def stored(self, identity: Identity, attempt: Attempt) -> Verdict:
        """When the committer has decided."""
        return self._committer.store(identity, attempt)


def run_blocking(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """The result of a coroutine all of whose waits block."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: Result = end.value
        return result
    raise RuntimeError("a wait did not block")  # pragma: no cover - BlockingWaits never suspend
