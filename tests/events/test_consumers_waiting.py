"""Requests for a consumer's events that wait: woken by an event, and true to what happened to it meanwhile."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import pytest
from flask import Flask

from app.context import Context
from app.events.feed.followers import Followers
from app.events.feed.middleware import FollowMiddleware, may_wait
from app.granian.waiting import follows_feed
from app.ingest.fast_path import FastPath
from tests.support.consuming import Worker, worker_of
from tests.support.databases import close
from tests.support.following import store_group
from tests.support.operating import api_of
from tests.support.people import Tenant
from tests.support.waiting import wait_until

Waiting = Callable[..., "Future[list[str]]"]


@pytest.fixture(scope="module", name="followers")
def _followers(app: Flask) -> Iterator[Followers]:
    """Those of the application."""
    followers = cast(FollowMiddleware, cast(FastPath, app.wsgi_app).application).followers
    yield followers
    close(followers.database)


@pytest.fixture(name="worker")
def _worker(app: Flask, alice: Tenant) -> Worker:
    return worker_of(api_of(app, alice), "billing", alice.project_id)


@pytest.fixture(name="waiting")
def _waiting(app: Flask, followers: Followers, worker: Worker, alice: Tenant) -> Iterator[Waiting]:
    """Asks for the next page, and returns when that waits."""

    def waits() -> int:
        return sum(wait.workspace_id == alice.workspace_row for wait in list(followers._waits))  # noqa: SLF001

    with ThreadPoolExecutor(2) as pool:

        def begin(**query: str) -> "Future[list[str]]":
            before = waits()
            # A client of its own: the other one goes on.
            reader = Worker(api_of(app, alice), worker.name)
            future = pool.submit(lambda: reader.read(wait=25, **query))
            wait_until(lambda: waits() > before)
            return future

        yield begin


class TestAWait:
    def test_ends_with_the_event_that_comes(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        page = waiting()
        store_group(context.database, alice, "1")

        assert page.result(20) == ["1"]
        assert worker.read() == ["1"]

    def test_behind_a_cursor_ends_with_what_comes_behind_it(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        worker.read()
        page = waiting(cursor=worker.cursor)
        store_group(context.database, alice, "2")

        assert page.result(20) == ["2"]

    def test_ends_with_what_a_seek_wants_again(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        worker.read()
        worker.commit()
        page = waiting()
        worker.seek("start")
        store_group(context.database, alice, "2")

        assert page.result(20) == ["1", "2"]

    def test_behind_a_cursor_is_refused_after_a_seek(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        store_group(context.database, alice, "1")
        worker.read()
        page = waiting(cursor=worker.cursor)
        worker.seek("start")
        store_group(context.database, alice, "2")

        with pytest.raises(AssertionError, match="conflict"):
            page.result(20)

    def test_is_refused_when_the_consumer_is_deleted(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        page = waiting()
        worker.api.delete(worker.path)
        store_group(context.database, alice, "1")

        with pytest.raises(AssertionError, match="not_found"):
            page.result(20)

    def test_is_refused_when_the_token_is_revoked(
        self, context: Context, waiting: Waiting, worker: Worker, alice: Tenant
    ) -> None:
        page = waiting()
        worker.api.post(f"/v1/tokens/{alice.token_id}/revoke")
        store_group(context.database, alice, "1")

        with pytest.raises(AssertionError, match="invalid_management_token"):
            page.result(20)


@pytest.mark.parametrize(
    ("path", "is_held"),
    [
        ("/v1/events/feed", True),
        ("/v1/consumers/a.b-c/events", True),
        ("/v1/consumers/a", False),
        ("/v1/consumers/a/commit", False),
        ("/v1/consumers/a/b/events", False),
        ("/v1/consumers//events", False),
        ("/v1/consumers/a/events/", False),
        ("/v1/consumers/a/events\n", False),
        ("/v1/events", False),
    ],
)
def test_no_other_paths_requests_are_held_back(path: str, *, is_held: bool) -> None:
    assert may_wait(path) is follows_feed({"PATH_INFO": path}) is is_held
