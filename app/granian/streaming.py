"""Sends an answer that is made while it is read, and makes no more of it than is being read.

RSGI's own stream takes whatever it is given and keeps it in memory. A file is read as fast as the client reads, so such
an answer goes through a pipe, which granian opens as a file: when it is full, we wait; when the client is gone, so is
the reader of the pipe.
"""

import asyncio
import fcntl
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PIPE_BYTES: Final = 65_536
"""What one of our pipes holds; an answer that is no longer needs none."""
_DESCRIPTORS: Final = "/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd"
# A client that reads nothing for so long will not come back.
_STALLED_SECONDS: Final = 60.0

Header = tuple[str, str]


async def stream(
    protocol: Any, status: int, headers: list[Header], first: bytes, more: Callable[[], Awaitable[bytes | None]]
) -> None:
    """Send `first`, which is more than a pipe holds, and then what `more` brings until it brings None."""
    reading, writing = os.pipe()
    open_ends = {reading, writing}
    try:
        # It holds sixteen pages, and there are machines with pages of 64 KiB. On macOS it holds no more than ours.
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(writing, False)
        protocol.response_file(status, headers, f"{_DESCRIPTORS}/{reading}")
        piece: bytes | None = first
        while piece is not None:
            await _write(writing, piece)
            # A pipe that has taken more than it holds has a reader. From here on there is no other one than granian,
            # so that we hear of its end.
            if reading in open_ends:
                os.close(reading)
                open_ends.discard(reading)
            piece = await more()
    except (BrokenPipeError, TimeoutError):
        return  # the client went away, or reads no more
    finally:
        for end in open_ends:
            with suppress(OSError):
                os.close(end)


async def _write(writing: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        try:
            rest = rest[os.write(writing, rest) :]
        except BlockingIOError:
            await _wait_until_writable(writing)


async def _wait_until_writable(writing: int) -> None:
    loop = asyncio.get_running_loop()
    is_writable: asyncio.Future[None] = loop.create_future()

    def note() -> None:
        if not is_writable.done():
            is_writable.set_result(None)

    loop.add_writer(writing, note)
    try:
        async with asyncio.timeout(_STALLED_SECONDS):
            await is_writable
    finally:
        loop.remove_writer(writing)
