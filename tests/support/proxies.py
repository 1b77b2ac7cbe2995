"""Requests through nginx and HAProxy, as shipped in deploy/, from clients with other addresses."""

from collections.abc import Mapping
from contextlib import closing
from http.client import HTTPConnection

from bench.proxies import Proxy
from tests.support.live import Answer, read


def ask(
    front: Proxy,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    client: str = "127.0.0.1",
) -> Answer:
    """One request on a connection of its own, from one of this machine's own addresses."""
    connection = HTTPConnection("127.0.0.1", front.port, timeout=60, source_address=(client, 0))
    with closing(connection):
        connection.request(method, path, body, dict(headers or {}))
        return read(connection.getresponse())
