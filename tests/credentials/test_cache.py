"""The cache of verified credentials: bounded, and what is in use stays."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from app.credentials import cache as cache_module
from app.credentials.cache import CredentialCache
from app.errors import StorageUnavailable


def test_it_holds_no_more_than_its_bound_even_when_all_of_it_is_in_use() -> None:
    cache: CredentialCache[int] = CredentialCache(entries_max=100)

    for number in range(1000):
        cache.put(_digest(number), number)
        for used in range(number + 1):
            cache.get(_digest(used))

    assert len(cache) == 100


def test_what_was_used_outlives_what_was_not() -> None:
    cache: CredentialCache[int] = CredentialCache(entries_max=10)
    for number in range(10):
        cache.put(_digest(number), number)

    for number in range(10, 100):
        assert cache.get(_digest(0)) == 0
        cache.put(_digest(number), number)

    assert cache.get(_digest(0)) == 0
    assert cache.get(_digest(1)) is None


def test_what_is_put_twice_is_there_once() -> None:
    cache: CredentialCache[int] = CredentialCache(entries_max=2)

    for number in (0, 0, 0, 1):
        cache.put(_digest(number), number)

    assert len(cache) == 2
    assert [cache.get(_digest(number)) for number in (0, 1)] == [0, 1]


def test_threads_that_read_during_an_eviction_find_the_right_value_or_none() -> None:
    cache: CredentialCache[int] = CredentialCache(entries_max=50)

    def use(first: int) -> bool:
        for number in range(first, first + 2000):
            cache.put(_digest(number), number)
            for near in range(max(0, number - 60), number):
                if cache.get(_digest(near)) not in (near, None):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, (0, 500, 1000, 1500)))
    assert len(cache) == 50


def test_a_flight_that_fails_leaves_nothing_behind() -> None:
    cache: CredentialCache[int] = CredentialCache()

    with pytest.raises(ZeroDivisionError), cache.single_flight(_digest(1)):
        raise ZeroDivisionError

    with cache.single_flight(_digest(1)) as cached:
        assert cached is None


def test_a_thread_waits_for_anothers_look_up_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read from what the wait is allowed, not from a clock."""
    allowed: list[float] = []

    def never(*, timeout: float) -> bool:
        allowed.append(timeout)
        return False

    taken: Any = SimpleNamespace(acquire=never)
    monkeypatch.setattr(cache_module, "_Flight", partial(cache_module._Flight, taken))  # noqa: SLF001
    cache: CredentialCache[int] = CredentialCache()

    with pytest.raises(StorageUnavailable), cache.single_flight(_digest(1)):
        pass

    assert len(allowed) == 1
    assert 0 < allowed[0] <= 1


def _digest(number: int) -> bytes:
    return number.to_bytes(32)
