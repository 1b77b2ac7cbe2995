"""Web processes or PostgreSQL killed under load: followers go on with their cursors, and see each stored event once."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from itertools import count
from pathlib import Path

import psutil
import psycopg
import pytest

from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.errors import StorageUnavailable
from app.events.feed.cursors import BEGIN
from app.events.feed.domain import Feed
from app.events.query.parsing import parse
from app.factory import create_app
from app.management.common.operators import at_the_shell
from local.postgres import EmbeddedPostgres
from tests.support.databases import SECRET_KEY, close
from tests.support.following import FEED, Group, store_group
from tests.support.live import LiveServer, live_server, workers_of
from tests.support.logging_left_alone import logging_left_alone
from tests.support.people import Tenant, make_tenant, rows
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_KILLS, _KILLS_OF_POSTGRESQL, _PRODUCERS, _FOLLOWERS = 6, 3, 6, 12
_OLD_SECONDS = 6.5

pytestmark = [pytest.mark.slow, pytest.mark.wiring]


@dataclass
class _Load:
    """Producers and followers, who repeat what is not answered."""

    server: LiveServer
    tenant: Tenant
    is_over: threading.Event = field(default_factory=threading.Event)
    acknowledged: list[str] = field(default_factory=list)
    has_all: threading.Event = field(default_factory=threading.Event)
    seen: list[list[str]] = field(default_factory=lambda: [[] for _ in range(_FOLLOWERS)])

    def produce(self, number: int) -> None:
        """Each event is sent until it is acknowledged, and the last one too: no outcome is left unknown."""
        count = 0
        while not self.is_over.is_set():
            self._send_until_acknowledged(f"{number}-{count}")
            count += 1

    def _send_until_acknowledged(self, event_id: str) -> None:
        headers = {"X-API-Key": self.tenant.key, "Content-Type": "application/json", "Idempotency-Key": event_id}
        body = json.dumps(event_for(self.tenant, event_id=event_id)).encode()
        while True:
            with suppress(OSError, HTTPException):
                if self.server.request("POST", PATH, body, headers).status in (200, 201):
                    self.acknowledged.append(event_id)
                    return

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

    def wait_for_progress(self) -> None:
        """Until each follower has been shown more."""
        before = [len(seen) for seen in self.seen]
        wait_until(lambda: all(len(seen) > number for seen, number in zip(self.seen, before, strict=True)))

    @contextmanager
    def running(self) -> Iterator[None]:
        """In the end, until each follower has been shown as many as are acknowledged."""
        producers = [threading.Thread(target=self.produce, args=(number,)) for number in range(_PRODUCERS)]
        followers = [threading.Thread(target=self.follow, args=(number,)) for number in range(_FOLLOWERS)]
        for thread in (*producers, *followers):
            thread.start()
        try:
            yield
            self.is_over.set()
            for thread in producers:
                thread.join()
            expected = len(self.acknowledged)
            wait_until(lambda: all(len(seen) >= expected for seen in self.seen), timeout_seconds=120)
        finally:
            self.is_over.set()
            self.has_all.set()
            for thread in (*producers, *followers):
                thread.join()


def _old_workers(server: LiveServer) -> list[psutil.Process]:
    """One that granian replaces: it ends altogether when one fails for the second time in 5.5 seconds."""
    workers = workers_of(server)
    oldest = min(workers, key=psutil.Process.create_time)
    return [oldest] if len(workers) == 2 and time.time() - oldest.create_time() > _OLD_SECONDS else []


def _audit(load: _Load, context: Context) -> None:
    """All that is acknowledged is stored, once, and nothing else; each follower was shown just that, in one order."""
    stored = "SELECT event_id FROM events WHERE project_id = :project ORDER BY position, event_uid"
    expected = [row.event_id for row in rows(context, stored, project=load.tenant.project_row)]
    assert len(expected) > _KILLS
    assert sorted(expected) == sorted(load.acknowledged)
    for seen in load.seen:
        assert seen == expected


def test_each_follower_sees_each_event_once_and_in_one_order(
    settings: Settings, checkout: Path, context: Context, alice: Tenant
) -> None:
    with live_server(replace(settings, database_pool_size=8), checkout, workers=2) as server:
        load = _Load(server, alice)
        with load.running():
            for _ in range(_KILLS):
                load.wait_for_progress()
                wait_until(lambda: _old_workers(server))[0].kill()

    _audit(load, context)


@pytest.fixture(name="postgres")
def _postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own, which it may kill, and which writes its log when a commit asks for it."""
    with EmbeddedPostgres(tmp_path / "data", options={"wal_writer_delay": "10s"}) as server:
        yield server


@pytest.fixture(name="context_of_postgres")
def _context_of_postgres(postgres: EmbeddedPostgres, credentials: Credentials) -> Iterator[Context]:
    settings = Settings(
        database_url=postgres.url("lariba_app", "lariba"),
        admin_database_url=postgres.url("lariba_owner", "lariba"),
        broker_url="memory://",
        secret_key=(SECRET_KEY,),
        log_level="CRITICAL",
        management_token_requests_per_second=None,
        management_workspace_requests_per_second=None,
    )
    migrate(settings)
    with logging_left_alone():
        context: Context = create_app(settings, credentials=credentials).extensions[EXTENSION]
        yield context
        close(context.database)
        close(context.reading)


def test_so_does_each_if_postgresql_is_killed(
    postgres: EmbeddedPostgres, context_of_postgres: Context, checkout: Path
) -> None:
    context = context_of_postgres
    with live_server(context.settings, checkout, workers=2) as server:
        load = _Load(server, make_tenant(context))
        with load.running():
            for _ in range(_KILLS_OF_POSTGRESQL):
                load.wait_for_progress()
                postgres.kill()
                postgres.start()

    _audit(load, context)


def _give_away_what_is_logged_ahead(context: Context, tenant: Tenant) -> None:
    """PostgreSQL logs positions thirty-three at a time, and the next one is the first of these afterwards."""
    with psycopg.connect(context.settings.admin_database_url, autocommit=True) as owner:
        for number in count():
            if owner.execute("SELECT log_cnt FROM event_positions").fetchone() == (0,):
                return
            store_group(context.database, tenant, f"ahead-{number}")


@pytest.mark.parametrize(
    ("q", "follows_on"), [("", False), ("", True), ("type:none", True)], ids=["now", "an empty page", "a filter's page"]
)
def test_no_place_is_given_away_behind_which_a_killed_postgresql_would_put_no_later_event(
    postgres: EmbeddedPostgres, context_of_postgres: Context, q: str, *, follows_on: bool
) -> None:
    """A group that is open when PostgreSQL is killed has taken a position, which is then given again."""
    context = context_of_postgres
    alice, charlie = make_tenant(context), make_tenant(context)
    feed, operator = Feed(alice.project_id, parse(q)), at_the_shell(alice.workspace_row)
    store_group(context.database, alice, "before")
    after = feed.page(context.reading, operator, BEGIN, 100).reached if follows_on else None
    _give_away_what_is_logged_ahead(context, charlie)
    with suppress(StorageUnavailable), Group(context.database, charlie, "open"):
        place = feed.page(context.reading, operator, after, 100).reached
        postgres.kill()
    postgres.start()
    for database in (context.database, context.reading):
        database.engine.dispose()
    store_group(context.database, alice, "1")
    store_group(context.database, alice, "2")

    page = Feed(alice.project_id).page(context.reading, operator, place, 100)
    assert [shown.event_id for shown in page.data] == ["1", "2"]
