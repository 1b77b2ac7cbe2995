"""Sends a long response no faster than the client reads it, through a pipe that granian opens as a file.

RSGI's own stream keeps in memory what the client has not read. A file is read at the client's pace: when the pipe is
full, we wait; when the client is gone, the pipe has no reader.
"""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

from granian.rsgi import HTTPProtocol  # type: ignore[attr-defined]

PIPE_BYTES: Final = 65_536
"""What one of our pipes holds. A shorter response needs none."""
_DESCRIPTORS: Final = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
# A client that has read nothing for so long is given up.
_STALLED_SECONDS: Final = 60.0

Header = tuple[str, str]


async def stream(
    protocol: HTTPProtocol,
    status: int,
    headers: list[Header],
    first: bytes,
    more: Callable[[], Awaitable[bytes | None]],
) -> None:
    """Send `first`, which is more than a pipe holds, and then what `more` yields until it yields None."""
    reading, writing = os.pipe()
    with (
        suppress(BrokenPipeError, TimeoutError),  # the client is gone, or reads no more
        os.fdopen(reading, "rb", buffering=0) as reader,
        os.fdopen(writing, "wb", buffering=0) as writer,
    ):
        # A pipe holds sixteen pages, which may have 64 KiB each. On macOS it holds no more than 64 KiB.
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(writing, False)
        protocol.response_file(status, headers, f"{_DESCRIPTORS}/{reading}")
        await _write(writer, first)
        # More than the pipe holds has been written, so granian has opened it. Without our own end, a write fails when
        # granian closes its end.
        reader.close()
        while (piece := await more()) is not None:
            await _write(writer, piece)


async def _write(writer: FileIO, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        if (written := writer.write(rest)) is None:  # the pipe is full
            await _wait_until_writable(writer)
        else:
            rest = rest[written:]


async def _wait_until_writable(writer: FileIO) -> None:
    loop = asyncio.get_running_loop()
    is_writable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not is_writable.done():
            is_writable.set_result(None)

    loop.add_writer(writer, note)
    try:
        async with asyncio.timeout(_STALLED_SECONDS):
            await is_writable
    finally:
        loop.remove_writer(writer)
