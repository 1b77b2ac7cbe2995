"""Producers of a workspace that moves, the operator's command, and what must be stored afterwards."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

from tests.support.cells import Cell
from tests.support.live import LiveServer, environment_of
from tests.support.people import Tenant, rows
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_SENDERS = 4
_BEFORE = 200
_AGAIN_SECONDS = 0.01
# Nobody reads here, so what is left may be deleted at once.
_FLASK = """
from app.cells.moving import move
from flask.cli import main

move._READS_END_SECONDS = 0.0
main()
"""


class Producers:
    """They repeat each event until it is acknowledged, and go where they are sent."""

    def __init__(self, servers: dict[str, LiveServer], tenant: Tenant) -> None:
        self._servers = servers
        self._tenant = tenant
        self.is_over = threading.Event()
        self.acknowledged: list[str] = []
        self.answers: Counter[tuple[str, int]] = Counter()
        """By cell and status."""

    def send_until_over(self, sender: int) -> None:
        cell, number = "eu1", 0
        while not self.is_over.is_set():
            event_id = f"{sender}-{number}"
            body = json.dumps(event_for(self._tenant, event_id=event_id)).encode()
            headers = {"X-API-Key": self._tenant.key, "Content-Type": "application/json", "Idempotency-Key": event_id}
            try:
                answer = self._servers[cell].request("POST", PATH, body, headers)
            except (OSError, HTTPException):  # the server is being replaced
                self.is_over.wait(_AGAIN_SECONDS)
                continue
            self.answers[cell, answer.status] += 1
            if answer.status == 421:
                cell = answer.headers["lariba-cell"]
            elif answer.status in (200, 201):
                self.acknowledged.append(event_id)
                number += 1
            else:
                self.is_over.wait(_AGAIN_SECONDS)


@contextmanager
def producing(servers: dict[str, LiveServer], tenant: Tenant) -> Iterator[Producers]:
    producers = Producers(servers, tenant)
    threads = [threading.Thread(target=producers.send_until_over, args=(n,)) for n in range(_SENDERS)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(producers.acknowledged) > _BEFORE)
        yield producers
        acknowledged = len(producers.acknowledged)
        wait_until(lambda: len(producers.acknowledged) > acknowledged + _BEFORE)
    finally:
        producers.is_over.set()
        for thread in threads:
            thread.join()


def mover(pair: list[Cell], checkout: Path, tenant: Tenant) -> subprocess.Popen[bytes]:
    """As an operator starts it."""
    command = [sys.executable, "-c", _FLASK, "--app", "wsgi", "workspace", "move", tenant.workspace_id, "--to", "us1"]
    environment = environment_of(*(each.settings for each in pair))
    return subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def audit(pair: list[Cell], tenant: Tenant, producers: Producers) -> None:
    stored = [
        [
            row.event_id
            for row in rows(
                each.context, "SELECT event_id FROM events WHERE workspace_id = :id", id=tenant.workspace_row
            )
        ]
        for each in pair
    ]
    assert stored[0] == []
    assert len(stored[1]) == len(set(stored[1]))
    assert set(producers.acknowledged) <= set(stored[1])
    # What was sent and not answered any more may be there too: one of each sender.
    assert len(stored[1]) - len(producers.acknowledged) <= _SENDERS
    assert {status for _, status in producers.answers} <= {200, 201, 409, 421, 503}
    assert producers.answers["us1", 201] > 0
