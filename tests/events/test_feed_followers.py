"""What followers share: places, the thread that looks for news; and what a request keeps from call to call."""

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import pytest
from flask import Flask

from app.config import Settings
from app.context import Context
from app.database.engine import TenantScope
from app.errors import StorageUnavailable
from app.events.feed.cursors import BEGIN, behind_all_of
from app.events.feed.domain import Page
from app.events.feed.followers import FOLLOWERS, WAIT, Followers, Places, Wait
from app.events.feed.following import Following
from app.events.feed.middleware import FollowMiddleware
from app.events.feed.news import News, Watched
from app.events.transactions import FewDays
from app.ingest.fast_path import FastPath
from app.management.common import guard
from app.management.common.authentication import authenticate
from tests.support.databases import close
from tests.support.following import FEED, Group, store_group
from tests.support.operating import api_of
from tests.support.people import Tenant


@pytest.fixture(scope="module", name="followers")
def _followers(app: Flask) -> Iterator[Followers]:
    """Those of the application."""
    followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers
    yield followers
    close(followers.database)


class TestARequest:
    def test_that_is_woken_in_vain_goes_on_from_its_page_and_less_often(
        self, followers: Followers, alice: Tenant
    ) -> None:
        environ: dict[str, Any] = {FOLLOWERS: followers}
        following = Following.of(environ, lambda: BEGIN, 25)
        waits = []
        for position in range(1, 8):
            page = Page(alice.project_row, [], behind_all_of(position), is_last=True)
            assert following.hold(environ, alice.workspace_row, page, "req_1")
            waits.append(environ.pop(WAIT))
            following = Following.of(environ, lambda: BEGIN, 25)
            assert following.after == page.reached

        assert [wait.after for wait in waits] == list(range(1, 8))
        assert [wait.gather_seconds for wait in waits] == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        assert len({wait.until for wait in waits}) == 1

    def test_that_has_judged_as_much_as_it_may_does_not_wait(self, followers: Followers, alice: Tenant) -> None:
        environ: dict[str, Any] = {FOLLOWERS: followers}
        page = Page(alice.project_row, [], behind_all_of(1), is_last=False)

        assert not Following.of(environ, lambda: BEGIN, 25).hold(environ, alice.workspace_row, page, "req_1")

    def test_has_one_id_in_all_its_calls(self, app: Flask, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        ids = []

        def note(bearer: str | None, *rest: Any, request_id: str, **more: Any) -> Any:
            ids.append(request_id)
            return authenticate(bearer, *rest, request_id=request_id, **more)

        monkeypatch.setattr(guard, "authenticate", note)
        response = api_of(app, alice).get(FEED, project_id=alice.project_id, cursor="now", wait=1)

        assert ids == [response.headers["X-Request-ID"]] * 2


class TestPlaces:
    def test_are_halved_for_one_workspace_and_left_to_others(self) -> None:
        places = Places(8)

        assert [places.take(1) for _ in range(5)] == [True] * 4 + [False]
        assert [places.take(2) for _ in range(3)] == [True, True, False]
        places.give_back(1)
        assert places.take(3)

    @pytest.mark.parametrize("number", [1, 2])
    def test_are_there_for_one_however_few(self, number: int) -> None:
        assert Places(number).take(1)


class TestTheThread:
    def test_finds_what_can_be_read_and_nothing_behind_it(
        self, context: Context, followers: Followers, alice: Tenant, charlie: Tenant
    ) -> None:
        def newest() -> dict[int, int]:
            watched = [Watched(each.workspace_row, each.project_row, 0) for each in (alice, charlie)]
            with FewDays(lambda: followers.database.transaction(TenantScope.ALL)) as transactions:
                return News().newest(transactions, watched)

        assert newest() == {}
        with Group(context.database, alice, "1"):
            store_group(context.database, alice, "2")
            assert newest() == {}
            store_group(context.database, charlie, "theirs")
            assert set(newest()) == {charlie.project_row}
        found = newest()
        assert set(found) == {alice.project_row, charlie.project_row}
        store_group(context.database, alice, "3")
        with Group(context.database, alice, "4"):
            store_group(context.database, alice, "5")
            assert found[alice.project_row] < newest()[alice.project_row]

    def test_asks_nothing_while_nobody_waits(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[int] = []
        monkeypatch.setattr(News, "newest", lambda *_: asked.append(1))
        followers = Followers(settings)
        followers._poll()  # noqa: SLF001

        assert asked == []
        close(followers.database)

    def test_wakes_a_request_once(self, settings: Settings, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
        """It waits on for what comes with the event, and nothing is asked for it meanwhile."""
        asked: list[list[Watched]] = []

        def newest(_news: News, _transactions: FewDays, watched: list[Watched]) -> dict[int, int]:
            asked.append(watched)
            return {alice.project_row: 1}

        monkeypatch.setattr(News, "newest", newest)
        followers, woken = Followers(settings), list[int]()
        monkeypatch.setattr(followers._background, "start", lambda: True)  # noqa: SLF001 - the test is its thread
        wait = _wait(followers, alice)
        assert followers.add(wait, lambda: woken.append(1), on_thread=False)
        for _ in range(3):
            followers._poll()  # noqa: SLF001
        followers.remove(wait)

        assert (len(asked), len(woken)) == (1, 1)
        close(followers.database)

    def test_outlives_a_database_that_is_away(self, settings: Settings, alice: Tenant) -> None:
        followers = Followers(replace(settings, database_url="postgresql://absent@127.0.0.1:1/none"))
        woken = threading.Event()
        wait = _wait(followers, alice)
        assert followers.add(wait, woken.set, on_thread=True)
        followers._poll()  # noqa: SLF001
        followers.remove(wait)

        assert not woken.is_set()

    @pytest.mark.parametrize("error", [StorageUnavailable, ValueError])
    def test_lets_no_request_wait_before_it_has_read_while_it_cannot_look_itself(
        self, settings: Settings, alice: Tenant, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
    ) -> None:
        """Such a request would get nothing until its time is over, although there are events."""
        monkeypatch.setattr(News, "newest", lambda *_: {})
        followers = Followers(settings)
        monkeypatch.setattr(followers._background, "start", lambda: True)  # noqa: SLF001 - the test is its thread
        wait = _wait(followers, alice)
        assert followers.add(wait, lambda: None, on_thread=False)
        assert followers.have_place(alice.workspace_row)
        with monkeypatch.context() as failing, suppress(error):
            failing.setattr(News, "newest", lambda *_: _fail(error))
            followers._poll()  # noqa: SLF001
        assert not followers.have_place(alice.workspace_row)

        followers._poll()  # noqa: SLF001
        assert followers.have_place(alice.workspace_row)
        followers.remove(wait)
        close(followers.database)


def _fail(error: type[Exception], *_: object) -> None:
    raise error


def _wait(followers: Followers, tenant: Tenant) -> Wait:
    return Wait(
        followers=followers,
        workspace_id=tenant.workspace_row,
        project_row=tenant.project_row,
        after=0,
        until=time.monotonic() + 600,
        gather_seconds=0.05,
    )
