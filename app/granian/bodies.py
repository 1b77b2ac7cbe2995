"""Reads bodies on the event loop: whole or not at all, in bounded memory and time, without a thread.

A body that cannot be had becomes the refusal that the application raises where it reads the body, so that a wrong key
is still a 401. A body that is refused is read to its end all the same, up to a bound: a client that is still sending
when the connection closes would see the closed connection, and not the answer.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from io import BytesIO
from typing import Final

from granian.rsgi import HTTPProtocol, ProtocolClosed  # type: ignore[attr-defined]

from app.config import Settings
from app.errors import BadRequest, BodyTimeout, PayloadTooLarge, StorageUnavailable
from app.granian.bounds import Bounds
from app.granian.deadlines import Deadlines
from app.granian.environ import Environ
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL, BUSY, ENDED_EARLY, BodyReadLimiter

SMALL_BYTES: Final = 65_536
"""Up to here granian may gather a body itself: its read buffer holds as much in any case."""
_BATCH_PATH: Final = "/v1/events/ingest/batch"
# Of a body that is too large, or of a request without a credential of ours.
_UNWANTED_BYTES_MAX: Final = 16 * 1024 * 1024
_UNWANTED_SECONDS: Final = 10.0


class BodyReader:
    """Reads the bodies of one process."""

    def __init__(self, settings: Settings, bounds: Bounds) -> None:
        self._settings = settings
        self._bounds = bounds
        self._limiter = BodyReadLimiter(bounds.body_reads)
        self._deadlines = Deadlines(settings.body_seconds)
        self._held: Counter[Hashable] = Counter()
        self._held_total = 0

    async def read_small(self, protocol: HTTPProtocol, owner: Hashable) -> bytes:
        """A body that granian gathers itself. Raises a Refusal."""
        try:
            with self._limiter.reading(owner):
                return await self._deadlines.bounded(protocol())
        except ProtocolClosed:
            raise BadRequest(ENDED_EARLY) from None
        except TimeoutError:
            raise BodyTimeout from None

    @asynccontextmanager
    async def body_in(self, environ: Environ, protocol: HTTPProtocol, owner: Hashable | None) -> AsyncIterator[None]:
        """A block in which `environ` has the body or its refusal, and the body counts as held."""
        body = b""
        environ[BODY_IS_WHOLE] = True
        if _may_have_body(environ):
            try:
                body = await self._read(environ, protocol, owner)
            except Exception as error:  # noqa: BLE001 - a refusal, or what Flask's handlers answer, log and count
                environ[BODY_REFUSAL] = error
        environ["wsgi.input"] = BytesIO(body)
        self._count(owner, len(body))
        try:
            yield
        finally:
            self._count(owner, -len(body))

    async def _read(self, environ: Environ, protocol: HTTPProtocol, owner: Hashable | None) -> bytes:
        length = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
        bytes_max = self._bytes_max(environ) if owner is not None else SMALL_BYTES
        if length is not None and length <= min(bytes_max, SMALL_BYTES):
            return await self.read_small(protocol, owner)
        with self._limiter.reading(owner):
            if length is not None and length > bytes_max:
                if "HTTP_EXPECT" not in environ:  # else the client waits for our 100, and has sent nothing
                    await _in_time(lambda: _discard(protocol), _UNWANTED_SECONDS)
                raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")
            return await _in_time(
                lambda: self._gather(protocol, length, bytes_max, owner),
                self._settings.body_seconds if owner is not None else _UNWANTED_SECONDS,
            )

    async def _gather(self, protocol: HTTPProtocol, length: int | None, bytes_max: int, owner: Hashable) -> bytes:
        """The body, of `length` bytes, or without a length to its proven end."""
        pieces: list[bytes] = []
        size = empty = 0
        try:
            async for piece in protocol:
                empty += not piece
                size += len(piece)
                if size > bytes_max + _UNWANTED_BYTES_MAX:
                    break
                if size <= bytes_max:
                    self._hold(owner, len(piece))
                    pieces.append(piece)
        finally:
            self._count(owner, -sum(map(len, pieces)))  # body_in() counts the whole body in the same step of the loop
        if size > bytes_max:
            raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")
        # The iteration yields one empty piece at a body's end, and two after an error (or trailers). With a length,
        # it may yield none.
        if size != length if length is not None else empty != 1:
            raise BadRequest(ENDED_EARLY)
        return b"".join(pieces)

    def _hold(self, owner: Hashable, size: int) -> None:
        is_owner_full = self._held[owner] + size > self._bounds.held_bytes_per_owner
        if is_owner_full or self._held_total + size > self._bounds.held_bytes:
            raise StorageUnavailable(BUSY)
        self._count(owner, size)

    def _count(self, owner: Hashable, size: int) -> None:
        self._held_total += size
        self._held[owner] += size
        if not self._held[owner]:
            del self._held[owner]

    def _bytes_max(self, environ: Environ) -> int:
        is_batch = environ["PATH_INFO"] == _BATCH_PATH
        return self._settings.batch_bytes_max if is_batch else self._settings.request_bytes_max


def _may_have_body(environ: Environ) -> bool:
    is_announced = environ.get("CONTENT_LENGTH") not in (None, "0") or "HTTP_TRANSFER_ENCODING" in environ
    return is_announced or environ["SERVER_PROTOCOL"] == "HTTP/2"


async def _in_time(read: Callable[[], Awaitable[bytes]], seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await read()
    except TimeoutError:
        raise BodyTimeout from None


async def _discard(protocol: HTTPProtocol) -> bytes:
    size = 0
    async for piece in protocol:
        size += len(piece)
        if size > _UNWANTED_BYTES_MAX:
            break
    return b""
