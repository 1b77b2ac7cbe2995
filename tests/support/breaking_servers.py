"""A web server that is healthy, reads every request to its end, and is gone before it answers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class BreakingServer(ThreadingHTTPServer):
    """Remembers what it has read."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.begun = 0
        """How many heads it has read."""
        self.bodies: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    server: BreakingServer

    def do_GET(self) -> None:
        """Health."""
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        self.server.begun += 1
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """The tests look at `bodies`."""


@contextmanager
def breaking_server() -> Iterator[BreakingServer]:
    """Serves until the block ends."""
    with BreakingServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
