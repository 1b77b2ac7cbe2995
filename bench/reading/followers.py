"""Many followers of feeds, and senders at a steady rate, in one process on one event loop.

Each follower asks as a client of the API does: with the cursor of its last page, and `wait`, over a connection that it
keeps. Of a page it reads no more than it has to, because hundreds of followers share this process's core.
"""

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import uuid4

_RECEIVED: Final = re.compile(rb'"received_at":"([^"]+)"')
_CURSOR: Final = re.compile(rb'"next_cursor":"([^"]+)"')
_WAIT_SECONDS: Final = 20
_LIMIT: Final = 500


@dataclass(frozen=True, slots=True)
class Followed:
    """A project, the source that sends to it, and the token that reads it."""

    project_id: str
    source_id: str
    key: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(slots=True)
class Heard:
    """What followers have heard."""

    milliseconds: list[float] = field(default_factory=list)
    """From the commit's moment of receipt to the arrival of the page, for each event and follower."""
    refused: int = 0


class Connection:
    """One kept connection; requests one after the other."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def request(self, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
        """The status and the body of the response."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        reader, writer = self._streams
        named = {"Host": "bench", "Content-Length": str(len(body)), **headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head[9:12]), await reader.readexactly(length)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


async def follow(port: int, followed: Followed, heard: Heard, is_ready: asyncio.Event) -> None:
    """Follow from now on, until it is cancelled."""
    connection = Connection(port)
    headers = {"Authorization": f"Bearer {followed.token}"}
    cursor, wait = "now", 0
    try:
        while True:
            path = f"/v1/events/feed?project_id={followed.project_id}&cursor={cursor}&limit={_LIMIT}&wait={wait}"
            status, body = await connection.request("GET", path, headers)
            now = time.time()
            if status != 200:
                heard.refused += 1
                await asyncio.sleep(1)
                continue
            for text in _RECEIVED.findall(body):
                heard.milliseconds.append((now - datetime.fromisoformat(text.decode()).timestamp()) * 1000)
            found = _CURSOR.findall(body)
            cursor, wait = found[-1].decode(), _WAIT_SECONDS
            is_ready.set()
    finally:
        connection.close()


async def send_steadily(port: int, followed: list[Followed], rate: float, seconds: float, connections: int = 16) -> int:
    """Send single events, to each project in its turn; returns how many were stored."""
    end = time.monotonic() + seconds
    stored = 0

    async def send(number: int) -> None:
        nonlocal stored
        connection, n = Connection(port), number
        due = time.monotonic() + number / rate
        while (now := time.monotonic()) < end:
            if due > now:
                await asyncio.sleep(due - now)
            to = followed[n % len(followed)]
            n, due = n + connections, due + connections / rate
            status, _ = await connection.request("POST", "/v1/events/ingest", {
                "X-API-Key": to.key, "Content-Type": "application/json"}, _event(to.source_id))  # fmt: skip
            stored += status == 201
        connection.close()

    await asyncio.gather(*map(send, range(connections)))
    return stored


def _event(source_id: str) -> bytes:
    event: dict[str, Any] = {
        "event_id": uuid4().hex,
        "event_type": "payment.failed",
        "source_id": source_id,
        "severity": "error",
        "payload": {"amount": 49.99, "currency": "EUR", "reason": "card_declined", "order_id": uuid4().hex[:12]},
    }
    return json.dumps(event).encode()
