"""The sync with Redis: when a window begins there, what comes back, and what came in the meantime."""

from collections.abc import Iterator

import pytest

from app.credentials.verification import Identity
from app.rate_limits import Rates
from app.rate_limits.gcra import LimitState
from local.redis import EmbeddedRedis
from tests.support.rates import Clock, is_admitted, set_script_clock, syncs_with_clock, without_thread

_KEY = Identity("key_1", 1, 1)
_LIMIT = 1_000


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("sync") / "data") as server:
        yield server


class Process:
    """One process whose time passes, and whose limits are synced, when a test says so."""

    def __init__(self, server: EmbeddedRedis, limit: int) -> None:
        self.clock = Clock()
        self._url = server.url
        (self.redis_sync,) = syncs_with_clock(1, server.url, self.clock)
        self.limiter = without_thread(Rates(limit, None), redis_sync=self.redis_sync, clock=self.clock)

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        set_script_clock(self._url, self.clock())

    def admitted(self, events: int) -> int:
        return sum(is_admitted(self.limiter, _KEY) for _ in range(events))


class TestTheAgeOfWhatWasConsumed:
    @pytest.mark.parametrize("idle_seconds", [1.0, 1.5, 100.0])
    @pytest.mark.parametrize("little", [1, 4])
    def test_a_little_use_long_ago_opens_no_second_window(
        self, server: EmbeddedRedis, little: int, idle_seconds: float
    ) -> None:
        """So little of it that it was not synced by itself."""
        process = Process(server, _LIMIT)
        assert process.admitted(little) == little
        process.limiter.sync()
        process.pass_time(idle_seconds)

        admitted = 0
        for _ in range(10):
            admitted += process.admitted(2 * _LIMIT)
            process.limiter.sync()
            process.pass_time(0.099)

        assert admitted <= 1.1 * _LIMIT

    def test_what_was_given_back_but_for_a_rounding_opens_none_either(self, server: EmbeddedRedis) -> None:
        process = Process(server, 10)
        process.limiter.admit(_KEY, 3)
        process.limiter.admit(_KEY, 0, consumed=2)
        process.limiter.admit(_KEY, 0, consumed=1)
        process.limiter.sync()
        process.pass_time(100.0)

        admitted = 0
        for _ in range(10):
            admitted += process.admitted(20)
            process.limiter.sync()
            process.pass_time(0.099)

        assert admitted <= 11

    def test_a_window_that_is_synced_late_ends_in_redis_when_it_ends_here(self, server: EmbeddedRedis) -> None:
        process = Process(server, 10)
        assert process.admitted(1) == 1
        process.pass_time(0.9)
        process.limiter.sync()
        process.pass_time(0.2)

        assert process.admitted(20) == 10


class TestWhatComesBack:
    def test_what_is_consumed_while_redis_is_asked_still_counts(self) -> None:
        state = _state_of_ten()
        state.consume(4, 0.0)
        state.take_delta(0.0)
        state.consume(3, 0.0)

        state.merge(tat=0.4, window_end=1.0, next_window_start=1.0)

        assert state.remaining(0.0) == pytest.approx(0.3)

    def test_a_refusal_while_redis_is_asked_still_delays_the_next_window(self) -> None:
        state = _state_of_ten()
        state.consume(10, 0.0)
        state.take_delta(0.0)
        state.refuse(0.5)

        state.merge(tat=1.0, window_end=1.0, next_window_start=1.0)

        assert state.next_window_start == 1.5

    @pytest.mark.parametrize("is_refused_here_too", [False, True])
    def test_a_later_refusal_of_another_process_delays_it_too(self, *, is_refused_here_too: bool) -> None:
        state = _state_of_ten()
        if is_refused_here_too:
            state.refuse(0.5)

        state.merge(tat=1.0, window_end=1.0, next_window_start=1.8)

        assert state.next_window_start == 1.8

    def test_what_redis_says_of_an_earlier_window_counts_if_nothing_was_refused_meanwhile(self) -> None:
        state = _state_of_ten()
        state.take_delta(0.0)

        state.merge(tat=0.1, window_end=0.6, next_window_start=0.6)

        assert (state.window_end, state.next_window_start) == (0.6, 0.6)

    @pytest.mark.parametrize("call_seconds", [0.001, 0.1, 0.4])
    @pytest.mark.parametrize("used", [10, 500])
    def test_a_window_that_opens_while_redis_is_asked_is_the_only_one(
        self, server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, used: int, call_seconds: float
    ) -> None:
        process = Process(server, _LIMIT)
        assert process.admitted(used) == used
        process.pass_time(1.0 - call_seconds / 2)
        ask = process.redis_sync._call  # noqa: SLF001
        admitted: list[int] = []

        def ask_slowly(keys: list[str], arguments: list[float]) -> list[list[int]]:
            answer = ask(keys, arguments)
            process.pass_time(call_seconds / 2)
            admitted.append(process.admitted(_LIMIT))
            process.pass_time(call_seconds / 2)
            return answer

        with monkeypatch.context() as slow:
            slow.setattr(process.redis_sync, "_call", ask_slowly)
            process.limiter.sync()
        process.pass_time(0.019)
        admitted.append(process.admitted(_LIMIT))
        process.limiter.sync()

        assert admitted[0] == _LIMIT
        assert sum(admitted) <= 1.1 * _LIMIT

    @pytest.mark.parametrize(
        ("said", "expected"), [((0.4, 0.9, 0.9), (1.5, 2.0, 2.0)), ((1.6, 2.2, 2.3), (2.1, 2.2, 2.3))]
    )
    def test_of_a_window_that_opens_meanwhile_and_the_one_that_redis_knows_the_later_counts(
        self, said: tuple[float, float, float], expected: tuple[float, float, float]
    ) -> None:
        state = _state_of_ten()
        state.take_delta(0.9)
        assert state.remaining(1.0) == 1.0
        state.consume(5, 1.0)

        state.merge(*said)

        assert (state.tat, state.window_end, state.next_window_start) == pytest.approx(expected)

    def test_however_long_requests_are_refused_no_more_than_one_quota_is_saved_up(self, server: EmbeddedRedis) -> None:
        process = Process(server, 10)
        state = _state_of_ten()
        state.consume(10, process.clock())
        process.pass_time(0.0)
        process.redis_sync.sync([state])

        for _ in range(10):
            process.pass_time(0.5)
            state.refuse(process.clock())
            process.redis_sync.sync([state])

        assert state.tat == pytest.approx(process.clock() - 1.0, abs=0.001)

    def test_more_limits_than_one_call_takes_are_all_synced(self, server: EmbeddedRedis) -> None:
        clock = Clock()
        ours, theirs = syncs_with_clock(2, server.url, clock)
        set_script_clock(server.url, clock())
        here = [_state_of_ten(f"key_{row}") for row in range(1_001)]
        for state in here:
            state.consume(3, clock())
        there = [_state_of_ten(state.name) for state in here]

        ours.sync(here)
        theirs.sync(there)

        assert [state.tat for state in there] == pytest.approx([clock() + 0.3] * len(there), abs=0.001)
        assert [state.tat for state in here] == [state.tat for state in there]


def _state_of_ten(name: str = "key_1") -> LimitState:
    state = LimitState(name, "key")
    state.set_limit(10)
    state.remaining(0.0)  # opens a window
    return state
