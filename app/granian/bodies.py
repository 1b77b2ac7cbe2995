"""Reads bodies on the event loop: whole or not at all, in bounded memory and time, and no thread waits for one.

What cannot be had is put into the WSGI environment as the refusal that the application meets where it wants the body,
so that a wrong key is still a 401. What is not wanted is read to its end all the same, up to a bound: a client that is
still sending when the connection closes would see that, and not the answer.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from io import BytesIO
from typing import Final, Protocol
from urllib.parse import parse_qs

from granian.rsgi import ProtocolClosed  # type: ignore[attr-defined]

from app.config import Settings
from app.credentials.format import Kind
from app.credentials.verification import Credentials
from app.errors import BadRequest, BodyTimeout, PayloadTooLarge, StorageUnavailable
from app.granian.deadlines import Deadlines
from app.granian.environ import Environ
from app.wire.body_reads import BODY_IS_WHOLE, BODY_REFUSAL, BUSY, ENDED_EARLY, BodyReadLimiter, BodyReadLimits

SMALL_BYTES: Final = 65_536
"""Up to here the server may gather a body itself: as much lies in its read buffer anyhow."""
_BATCH_PATH: Final = "/v1/events/ingest/batch"
# A stalled body costs a connection and a few kilobytes. A process has 2,048 connections (--backpressure).
_LIMITS: Final = BodyReadLimits(of_one=512, stalled_of_one=128, of_all=1_536, stalled_of_all=1_024)
# Of bodies, until their requests are answered: also a whole one waits, for a thread and for its turn.
_HELD_BYTES_MAX: Final = 128 * 1024 * 1024
_HELD_BYTES_OF_ONE_MAX: Final = 64 * 1024 * 1024
# What is read only to be thrown away: of a body that is too large, or of somebody who shows no credential of ours.
_UNWANTED_BYTES_MAX: Final = 16 * 1024 * 1024
_UNWANTED_SECONDS: Final = 10.0
# No operation that takes a key in its query knows more than two.
_PARAMETERS_MAX: Final = 16


class Protocol_(Protocol):  # noqa: N801 - RSGI's word
    """RSGI's protocol, as far as it reads. Of a body that broke off, the call raises; the iteration only ends."""

    def __call__(self) -> Awaitable[bytes]: ...
    def __aiter__(self) -> AsyncIterator[bytes]: ...


class BodyReader:
    """Reads the bodies of one process."""

    def __init__(self, settings: Settings, credentials: Credentials) -> None:
        self._settings = settings
        self._credentials = credentials
        self._limiter = BodyReadLimiter(_LIMITS)
        self._deadlines = Deadlines(settings.body_seconds)
        self._held: Counter[Hashable] = Counter()
        self._held_in_all = 0

    async def read_small(self, protocol: Protocol_, owner: Hashable) -> bytes:
        """A body that the server gathers itself. Raises a Refusal."""
        try:
            with self._limiter.reading(owner), self._deadlines.bounded():
                return await protocol()
        except ProtocolClosed:
            raise BadRequest(ENDED_EARLY) from None
        except TimeoutError:
            raise BodyTimeout from None

    @asynccontextmanager
    async def body_in(self, environ: Environ, protocol: Protocol_) -> AsyncIterator[None]:
        """A block in which `environ` has the body, or the refusal of whoever wants it; until it ends, the body counts
        as held.
        """
        body = b""
        owner = self.owner_of(environ)
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

    async def _read(self, environ: Environ, protocol: Protocol_, owner: Hashable | None) -> bytes:
        length = int(environ["CONTENT_LENGTH"]) if environ.get("CONTENT_LENGTH") else None
        bytes_max = self._bytes_max(environ) if owner is not None else SMALL_BYTES
        if length is not None and length <= min(bytes_max, SMALL_BYTES):
            return await self.read_small(protocol, owner)
        with self._limiter.reading(owner):
            if length is not None and length > bytes_max:
                if "HTTP_EXPECT" not in environ:  # else it waits for our word, and has sent nothing
                    await self._in_time(lambda: _thrown_away(protocol), _UNWANTED_SECONDS)
                raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")
            return await self._in_time(
                lambda: self._gathered(protocol, length, bytes_max, owner),
                self._settings.body_seconds if owner is not None else _UNWANTED_SECONDS,
            )

    async def _gathered(self, protocol: Protocol_, length: int | None, bytes_max: int, owner: Hashable) -> bytes:
        """A body piece by piece; of `length`, or to the end that was sent."""
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
            self._count(owner, -sum(map(len, pieces)))  # in the same step it counts as a whole, if it is one
        if size > bytes_max:
            raise PayloadTooLarge(f"The body is larger than {bytes_max} bytes.")
        # The server brings an empty piece for the end of a body. For an error (and for trailers) it brings one too, and
        # then that of the end. With a length it need not say anything.
        if size != length if length is not None else empty != 1:
            raise BadRequest(ENDED_EARLY)
        return b"".join(pieces)

    async def _in_time(self, read: Callable[[], Awaitable[bytes]], seconds: float) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                return await read()
        except TimeoutError:
            raise BodyTimeout from None

    def _hold(self, owner: Hashable, size: int) -> None:
        if self._held[owner] + size > _HELD_BYTES_OF_ONE_MAX or self._held_in_all + size > _HELD_BYTES_MAX:
            raise StorageUnavailable(BUSY)
        self._count(owner, size)

    def _count(self, owner: Hashable, size: int) -> None:
        self._held_in_all += size
        self._held[owner] += size
        if not self._held[owner]:
            del self._held[owner]

    def _bytes_max(self, environ: Environ) -> int:
        is_batch = environ["PATH_INFO"] == _BATCH_PATH
        return self._settings.batch_bytes_max if is_batch else self._settings.request_bytes_max

    def owner_of(self, environ: Environ) -> Hashable | None:
        """Whose request it is: the workspace of a credential that this process knows, else the credential.

        None if none of ours is shown. Looks into memory alone.
        """
        key = environ.get("HTTP_X_API_KEY") or _key_in(environ["QUERY_STRING"])
        shown: tuple[tuple[str, Kind], ...] = ((key, "sk"), (_token_in(environ), "mt"))
        for text, kind in shown:
            if text and (identity := self._credentials.lookup_cached(text, kind)) is not None:
                return identity.workspace_id
            if text and (credential := self._credentials.parse(text, kind)) is not None:
                return credential.key_id
        return None

    def token_of(self, environ: Environ) -> Hashable | None:
        """The management token that is shown, however the header is written; None if it is none of ours."""
        token = self._credentials.parse(_token_in(environ), "mt")
        return token and token.key_id


def _token_in(environ: Environ) -> str:
    scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _key_in(query: str) -> str:
    # A head of 400 KB can hold so many parameters that the loop would read them for 0.1 s.
    with suppress(ValueError):
        return next(iter(parse_qs(query, max_num_fields=_PARAMETERS_MAX).get("key", ())), "")
    return ""


def _may_have_body(environ: Environ) -> bool:
    is_announced = environ.get("CONTENT_LENGTH") not in (None, "0") or "HTTP_TRANSFER_ENCODING" in environ
    return is_announced or environ["SERVER_PROTOCOL"] == "HTTP/2"


async def _thrown_away(protocol: Protocol_) -> bytes:
    size = 0
    async for piece in protocol:
        size += len(piece)
        if size > _UNWANTED_BYTES_MAX:
            break
    return b""
