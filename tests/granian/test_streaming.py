"""A long answer reaches a server that opens its pipe later than we write into it, whatever a pipe holds there."""

import asyncio
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from app.granian.streaming import PIPE_BYTES, stream

_FIRST = bytes(PIPE_BYTES + 1)


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="only Linux has pipes of several sizes")
def test_a_pipe_that_holds_more_at_first_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine with pages of 64 KiB, where it holds 1 MiB."""
    pipe = os.pipe

    def large_pipe() -> tuple[int, int]:
        reading, writing = pipe()
        fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4 * PIPE_BYTES)
        return reading, writing

    monkeypatch.setattr(os, "pipe", large_pipe)

    assert asyncio.run(_streamed(iter([b"more"]))) == _FIRST + b"more"


async def _streamed(rest: Iterator[bytes]) -> bytes:
    server = _LateServer()

    async def more() -> bytes | None:
        return next(rest, None)

    await stream(cast(Any, server), 200, [], _FIRST, more)
    return await server.read


class _LateServer:
    """Opens what it is given when everything else has had its turn, and reads it to its end."""

    read: "asyncio.Task[bytes]"

    def response_file(self, _status: int, _headers: object, path: str) -> None:
        self.read = asyncio.create_task(asyncio.to_thread(Path(path).read_bytes))
