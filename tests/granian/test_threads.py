"""A workspace whose requests wait keeps no other one's waiting for a thread."""

import asyncio
import json
import threading
import time
from collections.abc import Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from app.config import Settings
from app.database.advisory_locks import workspace_lock
from app.granian.threads import SharedThreads
from tests.support.live import LiveServer
from tests.support.people import Tenant
from tests.support.sending import PATH, event_for
from tests.support.waiting import wait_until

_SENDERS = 256
# Those that wait for a place among batches do so for a second. The machine may be busy.
_SECONDS_MAX = 1.5


def _send_batch(server: LiveServer, tenant: Tenant) -> int:
    body = json.dumps({"events": [event_for(tenant)]}).encode()
    headers = {"X-API-Key": tenant.key, "Content-Type": "application/json"}
    return server.request("POST", f"{PATH}/batch", body, headers).status


@contextmanager
def _waiting_batches(live: LiveServer, settings: Settings, tenant: Tenant) -> Iterator[None]:
    """More of one workspace than there are threads: some wait for its barrier, the others for a place."""
    with ThreadPoolExecutor(_SENDERS) as senders, psycopg.connect(settings.admin_database_url) as session:
        session.execute("SELECT pg_advisory_xact_lock(%s)", [workspace_lock(tenant.workspace_row)])
        waiting = [senders.submit(_send_batch, live, tenant) for _ in range(_SENDERS)]
        wait_until(lambda: any(each.done() for each in waiting))
        yield
        session.rollback()


def test_batches_that_wait_keep_no_other_workspace_waiting(
    live: LiveServer, settings: Settings, alice: Tenant, charlie: Tenant
) -> None:
    # Their keys are known from here on.
    assert {_send_batch(live, tenant) for tenant in (alice, charlie)} == {200}
    with _waiting_batches(live, settings, alice):
        began = time.monotonic()
        assert _send_batch(live, charlie) == 200
        assert live.request("GET", "/v1/projects", headers=charlie.bearer).status == 200
        assert time.monotonic() - began < _SECONDS_MAX


def test_nor_do_they_keep_their_own_one_from_revoking_a_token(
    live: LiveServer, settings: Settings, alice: Tenant
) -> None:
    assert _send_batch(live, alice) == 200
    assert live.request("GET", "/v1/projects", headers=alice.bearer).status == 200
    with _waiting_batches(live, settings, alice):
        began = time.monotonic()
        assert live.request("POST", f"/v1/tokens/{alice.token_id}/revoke", headers=alice.bearer).status == 200
        assert time.monotonic() - began < _SECONDS_MAX


class TestSharedThreads:
    """Eight of them; what runs on one stays until it is let go."""

    def test_one_alone_gets_half_and_the_next_owner_gets_a_thread_at_once(self) -> None:
        async def meet() -> None:
            context = _FakeContext(8)
            alice = [context.visit("alice") for _ in range(20)]
            await context.until_running(["alice"] * 4)
            charlie = context.visit("charlie")
            await context.until_running(["alice"] * 4 + ["charlie"])
            context.let_go()
            await asyncio.gather(*alice, charlie)
            assert len(context.came) == 21

        asyncio.run(meet())

    def test_they_take_turns(self) -> None:
        async def meet() -> None:
            context = _FakeContext(1)
            first = context.visit("alice")
            await context.until_running(["alice"])
            others = [context.visit(owner) for owner in ("alice", "alice", "charlie")]
            await asyncio.sleep(0)
            context.let_go()
            await asyncio.gather(first, *others)
            assert context.came.index("charlie") == 2

        asyncio.run(meet())

    def test_a_thousand_members_of_one_owner_take_the_turns_of_one(self) -> None:
        async def meet() -> None:
            context = _FakeContext(1)
            first = context.visit("alice")
            await context.until_running(["alice"])
            others = [context.visit("alice", n) for n in range(1_000)] + [context.visit("charlie")]
            await asyncio.sleep(0)
            context.let_go()
            await asyncio.gather(first, *others)
            assert context.came.index("charlie") <= 2

        asyncio.run(meet())

    def test_members_of_one_owner_take_turns_too(self) -> None:
        async def meet() -> None:
            context = _FakeContext(1)
            first = context.visit("alice")
            await context.until_running(["alice"])
            others = [context.visit("alice", member) for member in ("loud", "loud", "loud", "quiet")]
            await asyncio.sleep(0)
            context.let_go()
            await asyncio.gather(first, *others)
            assert context.members.index("quiet") == 2

        asyncio.run(meet())

    def test_a_cancelled_request_keeps_no_thread(self) -> None:
        async def meet() -> None:
            context = _FakeContext(1)
            first = context.visit("alice")
            await context.until_running(["alice"])
            gone, last = context.visit("alice"), context.visit("charlie")
            await asyncio.sleep(0)
            gone.cancel()
            context.let_go()
            await asyncio.gather(first, last)
            assert context.came == ["alice", "charlie"]
            await context.visit("alice")

        asyncio.run(meet())

    def test_nor_does_one_that_is_cancelled_in_the_step_in_which_it_gets_its_thread(self) -> None:
        async def meet() -> str:
            threads = SharedThreads(1, "tried")
            may_end = threading.Event()

            async def end_and_cancel() -> None:
                await threads.run("alice", lambda: may_end.wait(30))
                gone.cancel()  # the thread is given on, and the other request has not resumed yet

            first = asyncio.create_task(end_and_cancel())
            await asyncio.sleep(0)
            gone = asyncio.create_task(threads.run("charlie", lambda: None))
            await asyncio.sleep(0)
            may_end.set()
            await asyncio.wait([first, gone])
            assert gone.cancelled()
            try:
                return await asyncio.wait_for(threads.run("alice", lambda: "a free thread"), 30)
            finally:
                threads.shutdown()

        assert asyncio.run(meet()) == "a free thread"

    def test_what_fails_for_want_of_a_thread_is_not_done_later(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its caller has heard that it failed, so nothing of it may be stored any more."""

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        async def meet() -> None:
            context = _FakeContext(8)
            first = context.visit("alice")
            await context.until_running(["alice"])
            monkeypatch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError):
                await context.visit("charlie")
            context.let_go()
            await first
            context.end()
            assert context.came == ["alice"]

        asyncio.run(meet())


class _FakeContext:
    def __init__(self, number: int) -> None:
        self._threads = SharedThreads(number, "tried")
        self._open = threading.Event()
        self.came: list[Hashable] = []
        self.members: list[Hashable] = []

    def visit(self, owner: str, member: Hashable = None) -> "asyncio.Task[None]":
        def stay() -> None:
            self.came.append(owner)
            self.members.append(member)
            self._open.wait(30)

        return asyncio.get_running_loop().create_task(self._threads.run(owner, stay, member))

    async def until_running(self, owners: list[str]) -> None:
        for _ in range(3_000):
            if sorted(map(str, self.came)) == owners:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(self.came)

    def let_go(self) -> None:
        self._open.set()

    def end(self) -> None:
        """With all that the pool has queued done."""
        self._threads._pool.shutdown()  # noqa: SLF001
