"""Web processes that are killed under load: followers go on with their cursors, and see each stored event once."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path

import psutil
import pytest

from app.config import Settings
from app.context import Context
from tests.support.following import FEED
from tests.support.live import LiveServer, live_server, workers_of
from tests.support.people import Tenant, rows
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_KILLS, _PRODUCERS, _FOLLOWERS = 6, 6, 12
_OLD_SECONDS = 6.5

pytestmark = [pytest.mark.slow, pytest.mark.wiring]


@dataclass
class _Load:
    """Producers and followers, who repeat what is not answered."""

    server: LiveServer
    tenant: Tenant
    is_over: threading.Event = field(default_factory=threading.Event)
    has_all: threading.Event = field(default_factory=threading.Event)
    seen: list[list[str]] = field(default_factory=lambda: [[] for _ in range(_FOLLOWERS)])

    def produce(self, number: int) -> None:
        headers = {"X-API-Key": self.tenant.key, "Content-Type": "application/json"}
        count = 0
        while not self.is_over.is_set():
            event = event_for(self.tenant, event_id=f"{number}-{count}")
            with suppress(OSError, HTTPException):
                if self.server.request("POST", PATH, json.dumps(event).encode(), headers).status in (200, 201):
                    count += 1

    def follow(self, number: int) -> None:
        cursor = "start"
        while not self.has_all.is_set():
            path = f"{FEED}?project_id={self.tenant.project_id}&wait=5&limit=50&cursor={cursor}"
            with suppress(OSError, HTTPException):
                answer = self.server.request("GET", path, headers=self.tenant.bearer)
                if answer.status == 200:
                    page = json.loads(answer.body)
                    self.seen[number] += [event["event_id"] for event in page["data"]]
                    cursor = page["next_cursor"]


@contextmanager
def _running(load: _Load) -> Iterator[None]:
    producers = [threading.Thread(target=load.produce, args=(number,)) for number in range(_PRODUCERS)]
    followers = [threading.Thread(target=load.follow, args=(number,)) for number in range(_FOLLOWERS)]
    for thread in (*producers, *followers):
        thread.start()
    try:
        yield
    finally:
        load.is_over.set()
        for thread in producers:
            thread.join()
        load.has_all.set()
        for thread in followers:
            thread.join()


def _old_workers(server: LiveServer) -> list[psutil.Process]:
    """One that granian replaces: it ends altogether when one fails for the second time in 5.5 seconds."""
    workers = workers_of(server)
    oldest = min(workers, key=psutil.Process.create_time)
    return [oldest] if len(workers) == 2 and time.time() - oldest.create_time() > _OLD_SECONDS else []


def test_each_follower_sees_each_event_once_and_in_one_order(
    settings: Settings, checkout: Path, context: Context, alice: Tenant
) -> None:
    with live_server(replace(settings, database_pool_size=8), checkout, workers=2) as server:
        load = _Load(server, alice)
        with _running(load):
            for _ in range(_KILLS):
                before = [len(seen) for seen in load.seen]
                wait_until(lambda: all(len(seen) > number for seen, number in zip(load.seen, before, strict=True)))  # noqa: B023
                wait_until(lambda: _old_workers(server))[0].kill()
            load.is_over.set()
            stored = "SELECT event_id FROM events WHERE project_id = :project ORDER BY position, event_uid"

            def have_all() -> bool:
                expected = len(rows(context, stored, project=alice.project_row))
                return all(len(seen) >= expected for seen in load.seen)

            wait_until(have_all, timeout_seconds=120, pause_seconds=0.5)

    expected = [row.event_id for row in rows(context, stored, project=alice.project_row)]
    assert len(expected) > _KILLS
    for seen in load.seen:
        assert seen == expected
