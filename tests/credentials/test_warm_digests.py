"""The memory of what was proven: bounded, and what is in use stays."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.credentials.warm_digests import WarmDigests


def test_it_remembers_no_more_than_its_bound_even_when_all_of_it_is_in_use() -> None:
    warm: WarmDigests[int] = WarmDigests(entries_max=100)

    for number in range(1000):
        warm.put(_digest(number), number)
        for used in range(number + 1):
            warm.get(_digest(used))

    assert len(warm.snapshot()) == 100


def test_what_was_used_outlives_what_was_not() -> None:
    warm: WarmDigests[int] = WarmDigests(entries_max=10)
    for number in range(10):
        warm.put(_digest(number), number)

    for number in range(10, 100):
        assert warm.get(_digest(0)) == 0
        warm.put(_digest(number), number)

    assert warm.get(_digest(0)) == 0
    assert warm.get(_digest(1)) is None


def test_what_is_put_twice_is_there_once() -> None:
    warm: WarmDigests[int] = WarmDigests(entries_max=2)

    for number in (0, 0, 0, 1):
        warm.put(_digest(number), number)

    assert warm.snapshot() == [(_digest(0), 0), (_digest(1), 1)]


def test_threads_that_read_while_room_is_made_find_the_right_value_or_none() -> None:
    warm: WarmDigests[int] = WarmDigests(entries_max=50)

    def use(first: int) -> bool:
        for number in range(first, first + 2000):
            warm.put(_digest(number), number)
            for near in range(max(0, number - 60), number):
                if warm.get(_digest(near)) not in (near, None):
                    return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(use, (0, 500, 1000, 1500)))
    assert len(warm.snapshot()) == 50


def test_a_flight_that_fails_leaves_nothing_behind() -> None:
    warm: WarmDigests[int] = WarmDigests()

    with pytest.raises(ZeroDivisionError), warm.flight(_digest(1)):
        raise ZeroDivisionError

    with warm.flight(_digest(1)) as meanwhile:
        assert meanwhile is None


def _digest(number: int) -> bytes:
    return number.to_bytes(32)
