"""How many bodies may be on their way: an owner that stalls its bodies delays its own."""

import weakref
from contextlib import ExitStack, suppress

import pytest

from app.errors import StorageUnavailable
from app.wire.body_reads import BodyReadLimiter, BodyReadLimits

_ALICE, _CHARLIE = 1, 2


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _limiter(threads: int, clock: _Clock | None = None) -> BodyReadLimiter:
    return BodyReadLimiter(BodyReadLimits.of_threads(threads), clock or _Clock())


def _begin(limiter: BodyReadLimiter, owner: object, stack: ExitStack, bodies: int = 1) -> int:
    """How many of `bodies` may be read; they stay under way until the stack is unwound."""
    taken = 0
    for _ in range(bodies):
        with suppress(StorageUnavailable):
            stack.enter_context(limiter.reading(owner))
            taken += 1
    return taken


@pytest.mark.parametrize("threads", [2, 8, 16, 128])
def test_one_workspace_takes_half_of_the_threads_at_the_most_and_all_together_not_all(threads: int) -> None:
    limiter = _limiter(threads)
    with ExitStack() as stack:
        assert _begin(limiter, _ALICE, stack, threads) == threads // 2
        others = sum(_begin(limiter, owner, stack) for owner in range(100, 100 + threads))
        assert threads // 2 + others == max(1, threads * 7 // 8)


@pytest.mark.parametrize("threads", [2, 8, 16, 128])
def test_one_stalled_owner_leaves_threads_to_others_whatever_their_number(threads: int) -> None:
    clock = _Clock()
    limiter = _limiter(threads, clock)
    with ExitStack() as stack:
        taken = 0
        for _ in range(10):
            taken += _begin(limiter, _ALICE, stack, threads)
            clock.now += 2.0
        assert taken <= threads // 2
        if threads > 2:
            assert _begin(limiter, _CHARLIE, stack) == 1


def test_of_bodies_that_take_longer_than_a_second_an_eighth_of_the_threads_is_enough() -> None:
    clock = _Clock()
    limiter = _limiter(16, clock)
    with ExitStack() as stack:
        assert _begin(limiter, _ALICE, stack, 2) == 2
        clock.now = 1.1
        assert _begin(limiter, _ALICE, stack) == 0
        assert _begin(limiter, _CHARLIE, stack) == 1


def test_quick_bodies_between_them_make_stalled_ones_no_younger() -> None:
    clock = _Clock()
    limiter = _limiter(16, clock)
    with ExitStack() as stack:
        assert _begin(limiter, _ALICE, stack, 2) == 2
        for _ in range(6):
            clock.now += 0.2
            with ExitStack() as quick:
                _begin(limiter, _ALICE, quick)
        assert _begin(limiter, _ALICE, stack) == 0


def test_keys_that_lift_each_other_leave_threads_for_the_rest_of_the_api() -> None:
    clock = _Clock()
    limiter = _limiter(16, clock)
    with ExitStack() as stack:
        for _ in range(20):
            _begin(limiter, _ALICE, stack)
            _begin(limiter, _CHARLIE, stack)
            clock.now += 0.3
        assert _begin(limiter, "a third", stack, 16) <= 10


def test_a_body_that_breaks_off_is_not_counted_any_longer() -> None:
    limiter = _limiter(16)
    for _ in range(40):
        with suppress(ConnectionError), limiter.reading(_ALICE):
            raise ConnectionError

    with ExitStack() as stack:
        assert _begin(limiter, _ALICE, stack, 8) == 8


def test_an_owner_whose_bodies_have_all_come_is_forgotten() -> None:
    class Owner:
        pass

    owner = Owner()
    limiter = _limiter(16)
    with limiter.reading(owner), limiter.reading(owner):
        pass
    remembered = weakref.ref(owner)
    del owner

    assert remembered() is None
