"""A bound on what a process does at a time: first come, first served, and no client takes all of it."""

from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from app.concurrency.limit import ConcurrencyLimit
from app.errors import StorageUnavailable
from tests.support.waiting import wait_until

_FOREVER = 60.0


def _limit(at_once: int, per_client: int, *, waiting: int = 10, seconds: float = _FOREVER) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        at_once, at_once_per_client=per_client, waiting_per_client=waiting, wait_seconds=seconds, busy="Busy."
    )


class _Holder:
    """Holds a slot in a thread until it is let go."""

    def __init__(self, pool: ThreadPoolExecutor, limit: ConcurrencyLimit, client: Hashable) -> None:
        self.is_in, self.may_go = Event(), Event()
        self._held: Future[None] = pool.submit(self._hold, limit, client)

    def _hold(self, limit: ConcurrencyLimit, client: Hashable) -> None:
        with limit.held(client):
            self.is_in.set()
            assert self.may_go.wait(_FOREVER)

    def go(self) -> None:
        self.may_go.set()
        self._held.result(_FOREVER)


@pytest.fixture(name="hold")
def _hold() -> Iterator[Callable[..., _Holder]]:
    holders: list[_Holder] = []

    def hold(limit: ConcurrencyLimit, client: Hashable) -> _Holder:
        holders.append(_Holder(pool, limit, client))
        return holders[-1]

    with ThreadPoolExecutor(10) as pool:
        yield hold
        for holder in holders:
            holder.may_go.set()


def _waiting(limit: ConcurrencyLimit) -> int:
    return len(limit._waiting)  # noqa: SLF001 - what nothing else shows: that a thread waits already


def test_no_more_than_the_bound_hold_it_at_once(hold: Callable[..., _Holder]) -> None:
    limit = _limit(2, 2)
    holders = [hold(limit, client) for client in "abc"]
    wait_until(lambda: _waiting(limit) == 1)
    assert [holder.is_in.is_set() for holder in holders].count(True) == 2

    next(holder for holder in holders if holder.is_in.is_set()).go()

    assert all(holder.is_in.wait(_FOREVER) for holder in holders)


def test_a_client_with_its_share_leaves_the_rest_to_others_who_come_later(hold: Callable[..., _Holder]) -> None:
    limit = _limit(3, 2)
    greedy = [hold(limit, "greedy") for _ in range(5)]
    wait_until(lambda: _waiting(limit) == 3)

    modest = hold(limit, "modest")

    assert modest.is_in.wait(_FOREVER)
    modest.go()
    assert [holder.is_in.is_set() for holder in greedy].count(True) == 2


def test_the_client_that_has_waited_longest_is_next(hold: Callable[..., _Holder]) -> None:
    limit = _limit(1, 1)
    first = hold(limit, "a")
    assert first.is_in.wait(_FOREVER)
    queue = []
    for number, client in enumerate("bac", start=1):
        queue.append(hold(limit, client))
        wait_until(lambda number=number: _waiting(limit) == number)  # type: ignore[misc]

    for holder in queue:
        first.go()
        assert holder.is_in.wait(_FOREVER)
        first = holder


def test_a_long_queue_of_one_client_keeps_another_one_waiting_for_one_holder_only(hold: Callable[..., _Holder]) -> None:
    limit = _limit(1, 1)
    first = hold(limit, "greedy")
    assert first.is_in.wait(_FOREVER)
    greedy = [hold(limit, "greedy") for _ in range(4)]
    wait_until(lambda: _waiting(limit) == 4)
    modest = hold(limit, "modest")
    wait_until(lambda: _waiting(limit) == 5)

    first.go()

    assert modest.is_in.wait(_FOREVER)
    assert not any(holder.is_in.is_set() for holder in greedy)


def test_a_wait_that_takes_too_long_is_refused_and_leaves_the_queue(hold: Callable[..., _Holder]) -> None:
    limit = _limit(1, 1, seconds=0.01)
    holder = hold(limit, "a")
    assert holder.is_in.wait(_FOREVER)

    with pytest.raises(StorageUnavailable, match=r"Busy\.") as refused, limit.held("b"):
        pass

    assert refused.value.retry_after_seconds == 1
    assert _waiting(limit) == 0
    holder.go()
    with limit.held("b"):
        pass


def test_of_one_client_no_more_wait_than_may_and_the_others_are_refused_at_once(hold: Callable[..., _Holder]) -> None:
    limit = _limit(1, 1, waiting=1)
    holder, waiter = hold(limit, "a"), hold(limit, "a")
    wait_until(lambda: _waiting(limit) == 1)

    with pytest.raises(StorageUnavailable), limit.held("a"):
        pass
    other = hold(limit, "b")
    wait_until(lambda: _waiting(limit) == 2)

    for each in (holder, waiter, other):
        each.may_go.set()


def test_what_fails_gives_its_slot_back() -> None:
    limit = _limit(1, 1, seconds=0.01)

    with pytest.raises(ZeroDivisionError), limit.held("a"):
        raise ZeroDivisionError

    with limit.held("a"):
        pass
