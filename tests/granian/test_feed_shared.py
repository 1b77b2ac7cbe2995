"""Followers on the event loop whose next requests wait without the application, and who are answered together."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import pytest
from flask import Flask

from app.context import Context
from app.errors import StorageUnavailable
from app.events.feed import followers as follow
from app.events.feed.followers import Followers
from app.events.feed.middleware import FollowMiddleware
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.granian.adapter import GranianAdapter
from app.granian.environ import Environ
from app.ingest.fast_path import FastPath
from app.ingest.services import EXTENSION as INGEST
from app.rate_limits import Rates
from tests.support.counted_reads import counted_reads
from tests.support.databases import close
from tests.support.following import FEED, Group, store_group
from tests.support.people import Tenant, execute
from tests.support.waiting import wait_until

_BUSY_SECONDS_MAX = 30.0
_RATE = re.compile(r"r=\d+;t=\d+")


@dataclass
class _Protocol:
    """How granian takes an answer, and says that the client is gone."""

    answers: list[tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=list)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.answers.append((status, headers, body))

    async def client_disconnect(self) -> None:
        await self.gone.wait()


class _Server:
    """The adapter, on the loop of the test."""

    def __init__(self, app: Flask) -> None:
        self._application = cast(FastPath, app.wsgi_app).application
        self.followers: Followers = cast(FollowMiddleware, self._application).followers
        self.called = 0
        fast_path = SimpleNamespace(application=self._call, begin=lambda _: None)
        self.adapter = GranianAdapter(cast(FastPath, fast_path), app.extensions[INGEST], app.extensions[SHARED_ANSWERS])

    def _call(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        self.called += 1
        return self._application(environ, start_response)

    @property
    def waiting(self) -> int:
        return len(self.followers._waits)  # noqa: SLF001

    async def serve(self, tenant: Tenant, query: str, protocol: _Protocol) -> None:
        headers = {"host": "x", "authorization": f"Bearer {tenant.token}", "x-request-id": "req_1"}
        scope = SimpleNamespace(
            method="GET",
            http_version="1.1",
            scheme="http",
            path=FEED,
            query_string=f"project_id={tenant.project_id}&{query}",
            headers=headers,
            server="127.0.0.1:8000",
            client="127.0.0.1:9",
            authority=None,
        )
        await self.adapter.__rsgi__(cast(Any, scope), cast(Any, protocol))

    async def ask(self, tenant: Tenant, query: str) -> tuple[int, list[tuple[str, str]], bytes]:
        protocol = _Protocol()
        await asyncio.wait_for(self.serve(tenant, query, protocol), _BUSY_SECONDS_MAX)
        (answer,) = protocol.answers
        return answer

    async def cursor(self, tenant: Tenant, q: str = "") -> str:
        """Of now."""
        _, _, body = await self.ask(tenant, f"{_with(q)}cursor=now")
        return _cursor_in(body)

    @asynccontextmanager
    async def held(
        self, tenant: Tenant, number: int, query: str = "wait=25", q: str = ""
    ) -> AsyncIterator[list[asyncio.Task[Any]]]:
        """Requests that go on behind a page of the process, and wait."""
        cursor = await self.cursor(tenant, q)
        before = self.waiting
        tasks = [asyncio.create_task(self.ask(tenant, f"{_with(q)}cursor={cursor}&{query}")) for _ in range(number)]
        await _until(lambda: self.waiting == before + number)
        yield tasks
        for task in tasks:
            task.cancel()


def _with(q: str) -> str:
    return f"q={q}&" if q else ""


async def _until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so)


def _cursor_in(body: bytes) -> str:
    return str(json.loads(body)["next_cursor"])


def _ids_in(body: bytes) -> list[str]:
    return [event["event_id"] for event in json.loads(body)["data"]]


Scenario = Callable[[_Server], Awaitable[Any]]


@pytest.fixture(name="run")
def _run(app: Flask) -> Iterator[Callable[[Scenario], Any]]:
    server = _Server(app)

    async def live(scenario: Scenario) -> Any:
        loop = asyncio.get_running_loop()
        server.adapter.__rsgi_init__(loop)
        try:
            return await scenario(server)
        finally:
            server.adapter.__rsgi_del__(loop)

    yield lambda scenario: asyncio.run(live(scenario))
    close(server.followers.database)


Run = Callable[[Scenario], Any]


def test_ten_followers_wait_and_hear_without_a_call_of_the_application(
    run: Run, app: Flask, context: Context, alice: Tenant
) -> None:
    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 10) as tasks:
            assert server.called == 1  # for `now`
            store_group(context.database, alice, "e")
            return await asyncio.gather(*tasks), server.called

    answers, called = run(scenario)
    assert [_ids_in(body) for _, _, body in answers] == [["e"]] * 10
    assert called == 1
    assert counted_reads(app, alice)["readFeed", "answered"][:2] == (11, 10)


def test_their_answers_are_those_of_the_application_byte_for_byte(
    run: Run, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.management.rate_limiter, "_rates", Rates(key=1_000, workspace=5_000))

    async def scenario(server: _Server) -> Any:
        # What is written in an uncommon way is the application's, from the beginning to the end.
        async with server.held(alice, 1) as shared, server.held(alice, 1, "%77ait=25") as others:
            assert server.called == 3
            store_group(context.database, alice, "1", "2")
            answers = await asyncio.gather(*shared, *others)
            assert server.called == 4
            return answers

    own, other = ((status, _RATE.sub("", str(headers)), body) for status, headers, body in run(scenario))
    assert own == other
    assert len(_ids_in(own[2])) == 2


def test_they_go_on_so_with_no_event_skipped_or_shown_twice_while_others_store(
    run: Run, context: Context, alice: Tenant
) -> None:
    events = 60

    def store(worker: int) -> None:
        for number in range(events // 3):
            with Group(context.database, alice, f"{worker}-{number}"):
                store_group(context.database, alice, f"{worker}-{number}-beside")

    async def follow_on(server: _Server, cursor: str) -> list[str]:
        seen: list[str] = []
        while len(seen) < 2 * events:
            status, _, body = await server.ask(alice, f"cursor={cursor}&wait=25")
            assert status == 200, body
            seen += _ids_in(body)
            cursor = _cursor_in(body)
        return seen

    async def scenario(server: _Server) -> Any:
        cursor = await server.cursor(alice)
        followers = [asyncio.create_task(follow_on(server, cursor)) for _ in range(10)]
        with ThreadPoolExecutor(3) as pool:
            loop = asyncio.get_running_loop()
            await asyncio.gather(*(loop.run_in_executor(pool, store, worker) for worker in range(3)))
        return await asyncio.gather(*followers)

    seen = run(scenario)
    assert all(each == seen[0] for each in seen)
    assert len(set(seen[0])) == len(seen[0]) == 2 * events


async def _judged_in_vain(server: _Server, context: Context, tenant: Tenant) -> None:
    """Store what the filter does not admit, and wait until all wait behind it."""
    judged = max(wait.after for wait in server.followers._waits)  # noqa: SLF001
    store_group(context.database, tenant, f"behind-{judged}", event_type="a")
    await _until(lambda: all(wait.after > judged for wait in list(server.followers._waits)))  # noqa: SLF001


def test_of_events_that_a_filter_does_not_admit_the_application_hears_nothing(
    run: Run, app: Flask, context: Context, alice: Tenant
) -> None:
    """Hundreds wait behind filters, and each event of the project would cost a call for each of them."""

    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 10, q="type:b") as tasks:
            for _ in range(3):
                await _judged_in_vain(server, context, alice)
            assert {wait.gather_seconds for wait in server.followers._waits} == {0.4}  # noqa: SLF001 - three times in vain
            called, waiting = server.called, server.waiting
            store_group(context.database, alice, "b", event_type="b")
            return await asyncio.gather(*tasks), called, waiting, server.called

    answers, *calls = run(scenario)
    assert [_ids_in(body) for _, _, body in answers] == [["b"]] * 10
    assert calls == [1, 10, 1]  # for `now`
    assert counted_reads(app, alice)["readFeed", "answered"][:2] == (11, 10)


def test_a_wait_that_goes_on_ends_in_its_time(run: Run, context: Context, alice: Tenant) -> None:
    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 1, "wait=3", q="type:b") as tasks:
            await _judged_in_vain(server, context, alice)
            ((status, _, body),) = await asyncio.gather(*tasks)
            return status, _ids_in(body), server.waiting

    assert run(scenario) == (200, [], 0)


def test_one_that_went_away_while_its_filter_judged_gives_its_place_back(
    run: Run, app: Flask, context: Context, alice: Tenant
) -> None:
    answers = app.extensions[SHARED_ANSWERS]
    answer = answers.answer
    protocol = _Protocol()

    async def scenario(server: _Server) -> Any:
        loop = asyncio.get_running_loop()

        def answer_one_that_goes(followers: Any) -> Any:
            loop.call_soon_threadsafe(protocol.gone.set)
            return answer(followers)

        query = f"q=type:b&cursor={await server.cursor(alice, 'type:b')}&wait=25"
        serving = asyncio.create_task(server.serve(alice, query, protocol))
        await _until(lambda: server.waiting == 1)
        with patch.object(answers, "answer", answer_one_that_goes):
            store_group(context.database, alice, "a", event_type="a")
            await asyncio.wait_for(serving, _BUSY_SECONDS_MAX)
        return server.waiting, protocol.answers

    assert run(scenario) == (0, [])


def test_a_process_that_is_to_end_lets_no_wait_go_on(
    run: Run, app: Flask, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = app.extensions[SHARED_ANSWERS]

    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 3, q="type:b") as tasks:
            await _judged_in_vain(server, context, alice)
            with patch.object(answers, "answer", wraps=answers.answer) as answer:
                monkeypatch.setattr(follow, "is_ending", lambda: True)
                bodies = [_ids_in(body) for _, _, body in await asyncio.gather(*tasks)]
            # None gathers any more, so they may be woken one by one; but each is answered once.
            return bodies, sum(len(followers) for (followers,), _ in answer.call_args_list)

    assert run(scenario) == ([[]] * 3, 3)


@pytest.mark.parametrize(
    ("change", "status"),
    [("revoked_at = now()", 401), ("expires_at = now()", 401), ("project_ids = ARRAY[0::bigint]", 404)],
    ids=["revoked", "expired", "narrowed"],
)
def test_who_has_lost_the_right_meanwhile_gets_the_refusal_of_the_application(
    run: Run, context: Context, alice: Tenant, change: str, status: int
) -> None:
    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 3) as tasks:
            execute(
                context,
                f"UPDATE management_tokens SET {change} WHERE public_id = :id",
                id=alice.token_id,
            )
            store_group(context.database, alice, "e")
            return [each[0] for each in await asyncio.gather(*tasks)]

    assert run(scenario) == [status] * 3


def test_while_postgresql_is_away_each_gets_the_application_s_503(
    run: Run, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageUnavailable

    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 3) as tasks:
            for module in ("app.events.feed.shared_answers", "app.management.common.authentication"):
                monkeypatch.setattr(f"{module}.read_callers", fail)
            store_group(context.database, alice, "e")
            return [each[0] for each in await asyncio.gather(*tasks)]

    assert run(scenario) == [503] * 3


def test_a_wait_that_is_over_ends_with_the_application_s_empty_page(run: Run, app: Flask, alice: Tenant) -> None:
    async def scenario(server: _Server) -> Any:
        cursor = await server.cursor(alice)
        answer = await server.ask(alice, f"cursor={cursor}&wait=1")
        return answer, server.called, server.waiting

    (status, headers, body), called, waiting = run(scenario)
    assert (status, _ids_in(body), called, waiting) == (200, [], 2, 0)
    assert ("X-Request-ID", "req_1") in headers
    assert counted_reads(app, alice)["readFeed", "answered"][:2] == (2, 0)


def test_a_wait_ends_in_time_while_it_gathers_with_others_for_longer(
    run: Run, context: Context, alice: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(server: _Server) -> Any:
        with monkeypatch.context() as gathering:
            gathering.setattr(Followers, "gather_seconds", lambda *_: 600.0)
            async with server.held(alice, 1, "wait=25") as longer, server.held(alice, 1, "wait=2") as shorter:
                store_group(context.database, alice, "e")
                ((_, _, body),) = await asyncio.gather(*shorter)
                return _ids_in(body), [each.done() for each in longer]

    assert run(scenario) == (["e"], [False])


def test_a_process_that_is_to_end_answers_all_at_once(run: Run, alice: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(server: _Server) -> Any:
        async with server.held(alice, 10) as tasks:
            monkeypatch.setattr(follow, "is_ending", lambda: True)
            return [_ids_in(body) for _, _, body in await asyncio.gather(*tasks)]

    assert run(scenario) == [[]] * 10


def test_a_client_that_goes_away_gives_its_place_back_and_gets_nothing(run: Run, app: Flask, alice: Tenant) -> None:
    async def scenario(server: _Server) -> Any:
        query = f"cursor={await server.cursor(alice)}&wait=25"
        protocol = _Protocol()
        serving = asyncio.create_task(server.serve(alice, query, protocol))
        await _until(lambda: server.waiting == 1)
        protocol.gone.set()
        await asyncio.wait_for(serving, _BUSY_SECONDS_MAX)
        return server.called, server.waiting, protocol.answers

    assert run(scenario) == (1, 0, [])
    assert counted_reads(app, alice)["readFeed", "answered"][:2] == (1, 0)


def test_one_that_goes_away_while_it_is_answered_counts_once(
    run: Run, app: Flask, context: Context, alice: Tenant
) -> None:
    protocol = _Protocol()
    answers = app.extensions[SHARED_ANSWERS]
    answer = answers.answer

    async def scenario(server: _Server) -> None:
        loop = asyncio.get_running_loop()

        def gone_meanwhile(followers: Any) -> Any:
            loop.call_soon_threadsafe(protocol.gone.set)
            return answer(followers)

        # Held by the application, whose empty response counts where nothing else is sent.
        with patch.object(answers, "answer", gone_meanwhile):
            serving = asyncio.create_task(server.serve(alice, "cursor=now&wait=25", protocol))
            await _until(lambda: server.waiting == 1)
            store_group(context.database, alice, "e")
            await asyncio.wait_for(serving, _BUSY_SECONDS_MAX)

    run(scenario)
    assert counted_reads(app, alice)["readFeed", "answered"][:2] == (1, 1)
