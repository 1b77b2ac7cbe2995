"""Requests that wait for an event: woken by it and by nothing else, bounded, and ended when the process is to end."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest
from flask import Flask

from app.config import Settings
from app.context import Context
from app.events.feed import followers as follow
from app.events.feed.ending import is_ending
from app.events.feed.followers import Followers
from app.events.feed.middleware import FollowMiddleware
from app.ingest.fast_path import FastPath
from tests.support.databases import close
from tests.support.following import FEED, Consumer, Group, store_group
from tests.support.live import LiveServer, gunicorn_server
from tests.support.operating import api_of
from tests.support.people import Tenant, rows
from tests.support.servers import ENDED
from tests.support.waiting import wait_until

# Of sixteen threads, those of one workspace.
_ON_THREADS = 2
# A process connects when its first request waits.
_FOLLOWING = """
    SELECT pid FROM pg_stat_activity WHERE application_name = 'lariba-following' AND datname = current_database()
"""


@pytest.fixture(scope="module", name="followers")
def _followers(app: Flask) -> Iterator[Followers]:
    """Those of the application."""
    followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers
    yield followers
    close(followers.database)


@pytest.fixture(name="following")
def _following(app: Flask, followers: Followers) -> Iterator[Callable[[Tenant], "Future[list[str]]"]]:
    """Begins to follow from now on, and waits until it waits."""
    with ThreadPoolExecutor(8) as pool:

        def begin(tenant: Tenant) -> "Future[list[str]]":
            waiting = _number(followers, tenant)
            consumer = Consumer(api_of(app, tenant), tenant.project_id, "now")
            future = pool.submit(consumer.page, wait=25)
            wait_until(lambda: _number(followers, tenant) > waiting)
            return future

        yield begin


def _number(followers: Followers, tenant: Tenant) -> int:
    return sum(wait.workspace_id == tenant.workspace_row for wait in list(followers._waits))  # noqa: SLF001


Begin = Callable[[Tenant], "Future[list[str]]"]


class TestAWait:
    def test_ends_with_the_event_that_comes(
        self, context: Context, following: Begin, alice: Tenant, charlie: Tenant
    ) -> None:
        ours, theirs = following(alice), following(charlie)
        store_group(context.database, alice, "e")

        assert ours.result(20) == ["e"]
        assert not theirs.done()
        store_group(context.database, charlie, "f")
        assert theirs.result(20) == ["f"]

    def test_ends_with_what_had_to_wait_for_a_commit_before_it(
        self, context: Context, following: Begin, alice: Tenant
    ) -> None:
        ours = following(alice)
        with Group(context.database, alice, "1"):
            store_group(context.database, alice, "2")
            store_group(context.database, alice, "3")
        assert ours.result(20) == ["1", "2", "3"]

    def test_hears_of_an_event_before_one_that_is_not_committed(
        self, context: Context, following: Begin, alice: Tenant
    ) -> None:
        ours = following(alice)
        store_group(context.database, alice, "1")
        with Group(context.database, alice, "2"):
            store_group(context.database, alice, "3")

            assert ours.result(20) == ["1"]

    def test_goes_on_when_the_connection_of_its_thread_was_lost(
        self, context: Context, following: Begin, settings: Settings, alice: Tenant
    ) -> None:
        ours = following(alice)
        with psycopg.connect(settings.database_url, autocommit=True) as session:
            wait_until(
                lambda: session.execute(f"SELECT {ENDED} FROM ({_FOLLOWING}) AS following").fetchall(),
            )
        store_group(context.database, alice, "e")

        assert ours.result(20) == ["e"]

    def test_is_none_beyond_the_share_of_a_workspace(
        self, context: Context, app: Flask, following: Begin, alice: Tenant
    ) -> None:
        waiting = [following(alice) for _ in range(_ON_THREADS)]

        assert Consumer(api_of(app, alice), alice.project_id, "now").page(wait=25) == []
        assert not any(each.done() for each in waiting)
        store_group(context.database, alice, "e")
        assert [each.result(20) for each in waiting] == [["e"]] * _ON_THREADS

    def test_is_none_when_the_process_is_to_end(
        self, context: Context, app: Flask, following: Begin, alice: Tenant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ours = following(alice)
        monkeypatch.setattr(follow, "is_ending", lambda: True)

        assert ours.result(20) == []
        assert _page_at_once(app, alice) == 200

    def test_is_none_for_a_request_with_a_body(self, app: Flask, alice: Tenant) -> None:
        """It cannot be read a second time."""
        assert _page_at_once(app, alice, {}) == 200

    def test_ends_with_a_refusal_if_the_token_was_revoked_meanwhile(
        self, context: Context, app: Flask, following: Begin, alice: Tenant
    ) -> None:
        ours = following(alice)
        assert api_of(app, alice).post(f"/v1/tokens/{alice.token_id}/revoke").status_code == 200
        store_group(context.database, alice, "e")

        with pytest.raises(AssertionError, match="invalid_management_token"):
            ours.result(20)


def _page_at_once(app: Flask, tenant: Tenant, body: object = None) -> int:
    """The status of the answer to a request that would have waited for longer than this does."""
    path = f"{FEED}?project_id={tenant.project_id}&cursor=now&wait=25"
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: api_of(app, tenant).call("GET", path, body).status_code).result(15)


class TestTheEndOfAProcess:
    def test_is_known_of_a_worker_of_gunicorn(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Worker:
            alive = True

            def handle_exit(self, *_: object) -> None: ...

        worker = Worker()
        monkeypatch.setattr(signal, "getsignal", lambda _: worker.handle_exit)
        assert not is_ending()
        worker.alive = False
        assert is_ending()

    @pytest.mark.parametrize("handler", [None, signal.SIG_DFL, signal.SIG_IGN, lambda *_: None])
    def test_is_not_guessed_from_other_handlers(self, monkeypatch: pytest.MonkeyPatch, handler: Any) -> None:
        monkeypatch.setattr(signal, "getsignal", lambda _: handler)

        assert not is_ending()

    @pytest.mark.wiring
    @pytest.mark.slow
    def test_ends_the_waits_of_a_threaded_server(
        self, settings: Settings, checkout: Path, context: Context, alice: Tenant
    ) -> None:
        fewer = replace(settings, database_pool_size=4)
        with gunicorn_server(fewer, checkout) as server, _held(server, context, alice) as held:
            server.process.send_signal(signal.SIGTERM)

            # Sooner than by the end of its time: gunicorn waits for 30 seconds.
            assert held.result(20) == 200
            assert server.process.wait(30) == 0


@contextmanager
def _held(server: LiveServer, context: Context, tenant: Tenant) -> "Iterator[Future[int]]":
    path = f"{FEED}?project_id={tenant.project_id}&cursor=now&wait=25"
    before = len(rows(context, _FOLLOWING))
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: server.request("GET", path, headers=tenant.bearer).status)
        wait_until(lambda: len(rows(context, _FOLLOWING)) > before)
        yield future
