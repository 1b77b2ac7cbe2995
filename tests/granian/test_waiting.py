"""Requests that follow a feed wait on the event loop: they take no thread, end when they should, and are bounded."""

import asyncio
import json
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from flask import Flask

from app.config import Settings
from app.context import Context
from app.events.feed.followers import Followers, Wait
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.granian.handover import Handover
from app.granian.signals import on_stop
from app.granian.threads import SharedThreads
from app.granian.waiting import End, FeedWaits
from tests.support.databases import close
from tests.support.following import FEED, store_group
from tests.support.live import LiveServer, live_server
from tests.support.people import Tenant
from tests.support.raw_http import answer_on, head
from tests.support.waiting import wait_until

# With one thread of the setting the adapter has eight, and holds 64 requests back: 32 of one workspace.
_WORKSPACE_MAX = 32


@pytest.fixture(scope="module", name="small")
def _small(settings: Settings, checkout: Path) -> Iterator[LiveServer]:
    with live_server(replace(settings, database_pool_size=8, server_threads=1), checkout) as server:
        yield server


class _Follower:
    """A connection on which a request for a feed has been sent."""

    def __init__(self, port: int, tenant: Tenant, cursor: str = "now", wait: int = 25, path: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        path = path or f"{FEED}?project_id={tenant.project_id}&cursor={cursor}&wait={wait}"
        self.socket.sendall(head("GET", path, f"Authorization: Bearer {tenant.token}", "Connection: close"))

    @property
    def is_answered(self) -> bool:
        return bool(select.select([self.socket], [], [], 0)[0])

    def answer(self) -> list[str]:
        """The ids of its events."""
        answer = answer_on(self.socket)
        assert answer.status == 200, answer.body
        return [event["event_id"] for event in json.loads(answer.body)["data"]]


@contextmanager
def _followers(server: LiveServer, tenant: Tenant, number: int, path: str | None = None) -> Iterator[list[_Follower]]:
    with ExitStack() as opened:
        followers = [_Follower(server.port, tenant, path=path) for _ in range(number)]
        for each in followers:
            opened.enter_context(each.socket)
        yield followers


@contextmanager
def _held(server: LiveServer, tenant: Tenant, path: str | None = None) -> Iterator[list[_Follower]]:
    """As many as a workspace may have; the others of some more are answered at once, so these are known to wait."""
    with _followers(server, tenant, _WORKSPACE_MAX + 8, path) as followers:
        wait_until(lambda: sum(each.is_answered for each in followers) == 8)
        beyond = [each for each in followers if each.is_answered]
        assert [each.answer() for each in beyond] == [[]] * 8
        yield [each for each in followers if each not in beyond]


def _is_beyond(server: LiveServer, tenant: Tenant) -> bool:
    """Whether one more is answered at once."""
    one_more = _Follower(server.port, tenant)
    with one_more.socket:
        return bool(select.select([one_more.socket], [], [], 1.0)[0]) and one_more.answer() == []


def _is_served(server: LiveServer, tenant: Tenant) -> bool:
    return server.request("GET", "/v1/projects", headers=tenant.bearer).status == 200


def test_more_followers_than_threads_hold_none(small: LiveServer, context: Context, alice: Tenant) -> None:
    with _held(small, alice) as followers:
        assert _is_served(small, alice)
        assert not any(each.is_answered for each in followers)

        store_group(context.database, alice, "e")
        assert [each.answer() for each in followers] == [["e"]] * _WORKSPACE_MAX


def test_nor_do_those_who_wait_for_a_consumers_events(small: LiveServer, context: Context, alice: Tenant) -> None:
    headers = alice.bearer | {"Content-Type": "application/json"}
    body = json.dumps({"project_id": alice.project_id}).encode()
    assert small.request("PUT", "/v1/consumers/billing", body, headers).status == 201
    with _held(small, alice, "/v1/consumers/billing/events?wait=25") as followers:
        assert _is_served(small, alice)
        assert not any(each.is_answered for each in followers)

        store_group(context.database, alice, "e")
        assert [each.answer() for each in followers] == [["e"]] * _WORKSPACE_MAX


def test_two_hundred_hear_of_an_event(live: LiveServer, context: Context, alice: Tenant) -> None:
    with _followers(live, alice, 200) as followers:
        # Each begins at `now`, so the event must come when the last of them has begun to wait, or come again.
        def is_heard() -> bool:
            store_group(context.database, alice, f"e{sum(each.is_answered for each in followers)}-{next(numbers)}")
            return all(each.is_answered for each in followers)

        numbers = iter(range(10_000))
        wait_until(is_heard, pause_seconds=0.2)
        assert all(each.answer() for each in followers)


def test_another_workspace_still_waits_when_one_has_its_share(
    small: LiveServer, alice: Tenant, charlie: Tenant
) -> None:
    with _held(small, alice):
        assert not _is_beyond(small, charlie)


def test_clients_that_are_gone_give_their_places_back(small: LiveServer, alice: Tenant) -> None:
    with _held(small, alice):
        pass

    # Sooner than by the end of the waits.
    assert wait_until(lambda: not _is_beyond(small, alice), timeout_seconds=15)


def test_a_wait_ends_with_an_empty_page(live: LiveServer, alice: Tenant) -> None:
    follower = _Follower(live.port, alice, wait=1)
    with follower.socket:
        assert follower.answer() == []


def test_a_token_that_was_revoked_meanwhile_gets_no_event(small: LiveServer, context: Context, alice: Tenant) -> None:
    with _held(small, alice) as followers:
        assert small.request("POST", f"/v1/tokens/{alice.token_id}/revoke", headers=alice.bearer).status == 200
        store_group(context.database, alice, "e")

        assert {answer_on(each.socket).status for each in followers} == {401}


@pytest.mark.slow
def test_a_server_that_is_stopped_answers_all_at_once(settings: Settings, checkout: Path, alice: Tenant) -> None:
    """It kills after five seconds what has not ended: a request that waits on would get no answer."""
    with (
        live_server(replace(settings, database_pool_size=8, server_threads=1), checkout) as server,
        _held(server, alice) as followers,
    ):
        server.process.send_signal(signal.SIGTERM)

        assert [each.answer() for each in followers] == [[]] * _WORKSPACE_MAX
        assert server.process.wait(30) == 0


def test_what_hears_of_a_stop_goes_before_the_server_s_handler_and_can_be_undone() -> None:
    heard: list[str] = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("server"))
    try:
        undo = on_stop(lambda: heard.append("ours"))
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["ours", "server"]
        undo()
        signal.raise_signal(signal.SIGTERM)
        assert heard == ["ours", "server", "server"]
    finally:
        signal.signal(signal.SIGTERM, before)


class _Protocol:
    """Of a client that goes away when the test says so."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def client_disconnect(self) -> None:
        await self.gone.wait()


def _wait(followers: Followers, tenant: Tenant, until: float, sent: list[str]) -> Wait:
    return Wait(
        followers=followers,
        workspace_id=tenant.workspace_row,
        project_row=tenant.project_row,
        after=1 << 62,
        until=until,
        gather_seconds=0.05,
        when_sent=lambda: sent.append("as it is"),
    )


def _feed_waits(app: Flask) -> FeedWaits:
    loop = asyncio.get_running_loop()
    return FeedWaits(loop, SharedThreads(2, "tried"), Handover(loop), app.extensions[SHARED_ANSWERS])


def test_a_client_that_goes_away_ends_its_wait(app: Flask, settings: Settings, alice: Tenant) -> None:
    """The response that was held back is the last one, and counts."""
    followers = Followers(settings)
    sent: list[str] = []

    async def scenario() -> object:
        protocol = _Protocol()
        wait = _wait(followers, alice, asyncio.get_running_loop().time() + 600, sent)
        waiting = asyncio.create_task(_feed_waits(app).end_of(wait, cast(Any, protocol)))
        await asyncio.sleep(0)
        assert not waiting.done()
        protocol.gone.set()
        return await asyncio.wait_for(waiting, 30)

    try:
        assert asyncio.run(scenario()) is End.GONE
        assert sent == ["as it is"]
    finally:
        close(followers.database)


@pytest.mark.parametrize("has_place", [True, False])
def test_a_response_counts_as_it_is_only_if_there_is_no_place_to_wait(
    app: Flask, settings: Settings, alice: Tenant, monkeypatch: pytest.MonkeyPatch, *, has_place: bool
) -> None:
    followers = Followers(settings)
    sent: list[str] = []

    async def scenario() -> object:
        wait = _wait(followers, alice, asyncio.get_running_loop().time(), sent)
        return await _feed_waits(app).end_of(wait, cast(Any, _Protocol()))

    if not has_place:
        monkeypatch.setattr(followers, "add", lambda *_, **__: False)
    try:
        assert asyncio.run(scenario()) is (End.DUE if has_place else End.NOT_HELD)
        assert sent == ([] if has_place else ["as it is"])
    finally:
        close(followers.database)
