"""Rate limits: what one process lets through, what several let through together, and a Redis that is not there."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from flask import Flask

from app.context import Context
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded, StorageUnavailable
from app.identifiers import random_text
from app.rate_limits import Overrides, RateLimiter, Rates, RedisSync, events_worth, read_overrides
from app.web import error_handlers, request_log
from local.redis import EmbeddedRedis
from tests.support.logged import logged_by
from tests.support.operating import at_once
from tests.support.people import Tenant, execute
from tests.support.rates import Clock, is_admitted, set_script_clock, syncs_with_clock, without_thread
from tests.support.waiting import wait_until

_SYNC_SECONDS = 0.1


@pytest.fixture(scope="module", name="server")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("rates") / "data") as server:
        yield server


@dataclass
class Cluster:
    """Processes that share a time and a Redis, with which each syncs ten times a second; or one process without."""

    url: str | None
    rates: Rates
    processes: int = 1
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        syncs = syncs_with_clock(self.processes, self.url, self.clock) if self.url else [None]
        self.limiters = [without_thread(self.rates, redis_sync=sync, clock=self.clock) for sync in syncs]
        self._due = [self.clock() + at * _SYNC_SECONDS / self.processes for at in range(self.processes)]

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for at, limiter in enumerate(self.limiters):
            if self.clock() >= self._due[at]:
                self._due[at] = self.clock() + _SYNC_SECONDS
                self.sync(limiter)

    def sync(self, limiter: RateLimiter) -> None:
        if self.url:
            set_script_clock(self.url, self.clock())
        limiter.sync()

    def admitted(
        self, seconds: float, *, per_second: float, identity: Identity, shares: tuple[int, ...] = (1,), events: int = 1
    ) -> int:
        """How many of steady requests get through; of each round, `shares` go to each process."""
        order = [at for at, share in enumerate(shares) for _ in range(share)]
        total = 0
        for number in range(round(seconds * per_second)):
            self.pass_time(1 / per_second)
            total += events * is_admitted(self.limiters[order[number % len(order)]], identity, events)
        return total


def someone(*, workspace: int = 1, row: int = 1) -> Identity:
    return Identity(f"key_{row}", row, workspace)


def local(*, key: int | None = None, workspace: int | None = None) -> tuple[RateLimiter, Clock]:
    clock = Clock()
    return without_thread(Rates(key, workspace), clock=clock), clock


class TestOneProcess:
    @pytest.mark.parametrize("limit", [1, 2, 3, 7, 10, 1_000])
    def test_the_whole_quota_may_be_sent_at_once_and_not_one_event_more(self, limit: int) -> None:
        limiter, _ = local(key=limit)

        assert sum(is_admitted(limiter, someone()) for _ in range(3 * limit)) == limit

    @pytest.mark.parametrize("limit", [1, 2, 7, 10, 100])
    @pytest.mark.parametrize("seconds", [1.5, 5.0, 10.3])
    def test_who_always_wants_more_gets_the_limit_over_any_span(self, limit: int, seconds: float) -> None:
        cluster = Cluster(None, Rates(limit, None))

        admitted = cluster.admitted(seconds, per_second=5 * limit + 3, identity=someone())

        assert abs(admitted - limit * seconds) <= 1 + 0.01 * limit

    def test_who_sends_the_quota_in_one_burst_a_second_is_never_refused(self) -> None:
        limiter, clock = local(key=50)
        for _ in range(10):
            assert all(is_admitted(limiter, someone()) for _ in range(50))
            clock.now += 1.0

    def test_who_stays_under_the_limit_is_never_refused(self) -> None:
        limiter, clock = local(key=100)
        for _ in range(2_000):
            assert is_admitted(limiter, someone())
            clock.now += 1 / 97

    @pytest.mark.parametrize("batch", [3, 30, 60, 90, 100])
    def test_batches_count_their_events_and_reach_the_limit(self, batch: int) -> None:
        cluster = Cluster(None, Rates(100, None))

        admitted = cluster.admitted(20, per_second=50, identity=someone(), events=batch)

        assert 1_800 <= admitted <= 2_000 + batch

    def test_a_batch_larger_than_what_is_left_is_refused_as_a_whole(self) -> None:
        limiter, _ = local(key=10)
        limiter.admit(someone(), 6)

        assert not is_admitted(limiter, someone(), 5)
        assert is_admitted(limiter, someone(), 4)

    def test_a_batch_larger_than_the_quota_is_refused_with_the_reason_and_admitted_when_all_is_left(self) -> None:
        limiter, clock = local(key=10)
        limiter.admit(someone())

        with pytest.raises(RateLimitExceeded, match=r"25 events.*10 per second.*fewer") as refusal:
            limiter.admit(someone(), 25)

        assert refusal.value.retry_after_seconds is not None
        clock.now += refusal.value.retry_after_seconds
        assert is_admitted(limiter, someone(), 25)
        clock.now += 2.4
        assert not is_admitted(limiter, someone()), "the debt passes first"
        clock.now += 0.2
        assert is_admitted(limiter, someone())

    def test_what_was_consumed_before_is_counted_once_and_given_back_with_a_refusal(self) -> None:
        limiter, clock = local(key=10)
        limiter.admit(someone(), 3)
        assert limiter.admit(someone(), 5, consumed=3).headers["RateLimit"] == '"key";r=5;t=1'

        limiter.admit(someone(), 4)
        with pytest.raises(RateLimitExceeded) as refusal:
            limiter.admit(someone(), 6, consumed=4)
        assert refusal.value.headers["RateLimit"] == '"key";r=5;t=1'
        assert is_admitted(limiter, someone(), 5)

        clock.now += 2.1
        limiter.admit(someone(), 2)
        limiter.admit(someone(), 25, consumed=2)
        clock.now += 2.4
        assert not is_admitted(limiter, someone()), "the debt passes first"
        clock.now += 0.2
        assert is_admitted(limiter, someone())

    @pytest.mark.parametrize(
        ("body_bytes", "events"), [(0, 1), (4_096, 1), (4_097, 2), (524_288, 128), (5 * 1_048_576, 1_280)]
    )
    def test_a_large_body_counts_as_an_event_for_each_4_kib(self, body_bytes: int, events: int) -> None:
        assert events_worth(body_bytes) == events

    def test_asking_for_nothing_takes_nothing_and_is_refused_when_nothing_is_left(self) -> None:
        limiter, _ = local(key=2)
        for _ in range(9):
            limiter.admit(someone(), 0)
        limiter.admit(someone(), 2)

        assert not is_admitted(limiter, someone(), 0)

    @pytest.mark.parametrize("used", [1, 4, 10])
    def test_the_same_request_is_admitted_after_the_seconds_of_the_refusal(self, used: int) -> None:
        limiter, clock = local(key=10)
        assert is_admitted(limiter, someone(), used)
        with pytest.raises(RateLimitExceeded) as refusal:
            limiter.admit(someone(), 10)

        clock.now += refusal.value.retry_after_seconds or 0

        assert is_admitted(limiter, someone(), 10)

    def test_keys_have_each_their_own_limit_and_share_their_workspaces(self) -> None:
        limiter, _ = local(key=10, workspace=15)

        assert sum(is_admitted(limiter, someone(row=1)) for _ in range(20)) == 10
        assert sum(is_admitted(limiter, someone(row=2)) for _ in range(20)) == 5
        assert sum(is_admitted(limiter, someone(row=3, workspace=2)) for _ in range(20)) == 10

    def test_what_the_workspace_refuses_costs_the_key_nothing(self) -> None:
        limiter, clock = local(key=10, workspace=15)
        limiter.admit(someone(row=1), 10)
        limiter.admit(someone(row=2), 5)
        with pytest.raises(RateLimitExceeded, match=r"^This workspace may send 15 events per second"):
            limiter.admit(someone(row=3), 1)

        clock.now += 1.0
        assert is_admitted(limiter, someone(row=3), 10) or is_admitted(limiter, someone(row=3), 1)

    def test_off_is_no_limit_and_no_header(self) -> None:
        limiter, _ = local()

        assert {str(limiter.admit(someone()).headers) for _ in range(50)} == {"{}"}

    def test_a_limit_of_its_own_counts_and_ends(self) -> None:
        mine = Overrides({1: 3}, {1: 40})
        clock = Clock()
        limiter = without_thread(Rates(10, 20), read_overrides=lambda: mine, clock=clock)
        limiter.admit(someone(), 0)
        limiter.reload_overrides()
        assert sum(is_admitted(limiter, someone()) for _ in range(20)) == 3
        assert sum(is_admitted(limiter, someone(row=2), 1) for _ in range(20)) == 10

        mine = Overrides()
        limiter.reload_overrides()
        clock.now += 2
        assert sum(is_admitted(limiter, someone()) for _ in range(20)) == 10

    def test_a_workspaces_limit_for_its_keys_counts_for_those_without_one_of_their_own(self) -> None:
        mine = Overrides({1: 3}, {}, {9: 5})
        clock = Clock()
        limiter = without_thread(Rates(10, None), read_overrides=lambda: mine, clock=clock)
        keys = [Identity(f"key_{row}", row, workspace) for row, workspace in ((1, 9), (2, 9), (3, 8))]

        def admitted() -> list[int]:
            """How many of twenty of each key, with a whole quota before them."""
            clock.now += 30
            return [sum(is_admitted(limiter, key) for _ in range(20)) for key in keys]

        # Before they are read, and then for windows that are open already.
        assert admitted() == [10, 10, 10]
        limiter.reload_overrides()
        assert admitted() == [3, 5, 10]
        mine = Overrides({2: 7}, {}, {9: 4})
        limiter.reload_overrides()
        assert admitted() == [4, 7, 10]
        mine = Overrides()
        limiter.reload_overrides()
        assert admitted() == [10, 10, 10]

    def test_a_limit_that_is_lifted_leaves_no_debt(self) -> None:
        mine = Overrides({1: 1})
        limiter = without_thread(Rates(None, None), read_overrides=lambda: mine, clock=Clock())
        limiter.reload_overrides()
        limiter.admit(someone(), 100)
        assert not is_admitted(limiter, someone())

        mine = Overrides()
        limiter.reload_overrides()

        assert is_admitted(limiter, someone(), 100)

    def test_while_the_database_is_away_the_last_known_limits_go_on(self) -> None:
        answers: Iterator[Overrides] = iter([Overrides({1: 3})])

        def read() -> Overrides:
            for answer in answers:
                return answer
            raise StorageUnavailable

        limiter = without_thread(Rates(10, None), read_overrides=read, clock=Clock())
        limiter.reload_overrides()
        limiter.reload_overrides()

        assert sum(is_admitted(limiter, someone()) for _ in range(20)) == 3

    def test_an_older_reading_of_the_limits_does_not_replace_a_newer_one(self) -> None:
        readings = iter([Overrides({1: 3}), Overrides({1: 7})])
        is_read, may_go_on = threading.Event(), threading.Event()

        def read() -> Overrides:
            reading = next(readings)
            if reading.keys[1] == 3:
                is_read.set()
                may_go_on.wait(30)
            return reading

        limiter = without_thread(Rates(10, None), read_overrides=read, clock=Clock())
        with ThreadPoolExecutor(2) as pool:
            older = pool.submit(limiter.reload_overrides)
            assert is_read.wait(30)
            newer = pool.submit(limiter.reload_overrides)
            # As long as it may take to be through, where nothing holds it back.
            wait([newer], timeout=0.2)
            may_go_on.set()
            older.result(30)
            newer.result(30)

        assert sum(is_admitted(limiter, someone()) for _ in range(20)) == 7

    def test_of_many_threads_every_event_counts(self) -> None:
        limiter, _ = local(key=2**20, workspace=2**20)  # whose sums have no rounding
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            at_once([lambda: [limiter.admit(someone()) for _ in range(2_000)]] * 16)
        finally:
            sys.setswitchinterval(interval)

        assert limiter.admit(someone(), 0).headers["RateLimit"] == '"key";r=1016576;t=1, "workspace";r=1016576;t=1'

    def test_a_hundred_thousand_idle_keys_are_forgotten(self) -> None:
        limiter, clock = local(key=10, workspace=10)
        for row in range(100_000):
            is_admitted(limiter, someone(row=row))
        limiter.sync()
        clock.now += 3

        assert limiter.sweep() == 100_000 + 1

    def test_of_too_many_limits_the_oldest_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app.rate_limits.limiter._STATES_MAX", 10)
        limiter, _ = local(key=1)
        for row in range(25):
            limiter.admit(someone(row=row))

        assert limiter.sweep() == 15

        assert [row for row in range(25) if not is_admitted(limiter, someone(row=row))] == list(range(15, 25))


class TestHeaders:
    def test_they_hold_the_policy_what_is_left_and_when_all_of_it_is_back(self) -> None:
        limiter, _ = local(key=10, workspace=15)

        assert limiter.admit(someone(), 4).headers == {
            "RateLimit-Policy": '"key";q=10;w=1, "workspace";q=15;w=1',
            "RateLimit": '"key";r=6;t=1, "workspace";r=11;t=1',
        }

    def test_a_limit_that_is_off_stands_in_no_header(self) -> None:
        limiter, _ = local(workspace=15)

        assert limiter.admit(someone()).headers == {
            "RateLimit-Policy": '"workspace";q=15;w=1',
            "RateLimit": '"workspace";r=14;t=1',
        }

    @pytest.mark.parametrize("limit", [1, 3, 7, 10, 333])
    def test_as_much_is_left_as_the_header_says(self, limit: int) -> None:
        limiter, _ = local(key=limit)

        said = [int(limiter.admit(someone()).headers["RateLimit"].split(";")[1][2:]) for _ in range(limit)]

        assert said == list(range(limit - 1, -1, -1))

    def test_a_refusal_is_a_429_that_carries_them_too(self) -> None:
        limiter, _ = local(key=1)
        limiter.admit(someone())
        app = Flask("limited")
        request_log.register(app)
        error_handlers.register(app)
        app.add_url_rule("/", view_func=lambda: str(limiter.admit(someone())))

        answer = app.test_client().get("/")

        assert answer.status_code == 429
        assert answer.json is not None
        assert (answer.json["error"]["code"], answer.json["error"]["retryable"]) == ("rate_limit_exceeded", True)
        assert answer.headers["Retry-After"] == "1"
        assert answer.headers["RateLimit-Policy"] == '"key";q=1;w=1'
        assert answer.headers["RateLimit"] == '"key";r=0;t=1'


class TestSeveralProcesses:
    @pytest.mark.parametrize("limit", [10, 100, pytest.param(500, marks=pytest.mark.slow)])
    @pytest.mark.parametrize("shares", [(1,), (1, 1), (1, 1, 1, 1), (5, 1, 1), (1, 0, 0, 0)])
    @pytest.mark.parametrize("excess", [2, pytest.param(6, marks=pytest.mark.slow)])
    def test_the_rate_of_all_together_is_within_a_tenth_of_the_limit(
        self, server: EmbeddedRedis, limit: int, shares: tuple[int, ...], excess: int
    ) -> None:
        cluster = Cluster(server.url, Rates(limit, None), len(shares))

        for seconds in (4.0, 5.3):
            admitted = cluster.admitted(seconds, per_second=excess * limit, identity=someone(), shares=shares)
            assert abs(admitted - limit * seconds) <= 0.1 * limit * seconds, seconds

    def test_many_keys_keep_to_their_workspaces_limit(self, server: EmbeddedRedis) -> None:
        cluster = Cluster(server.url, Rates(1_000, 100), 3)
        admitted = 0
        for number in range(3_000):
            cluster.pass_time(0.002)
            admitted += is_admitted(cluster.limiters[number % 3], someone(row=number % 20))

        assert 540 <= admitted <= 660

    def test_what_was_admitted_too_often_is_made_up_for(self, server: EmbeddedRedis) -> None:
        cluster = Cluster(server.url, Rates(10, None), 4)
        at_once = sum(is_admitted(limiter, someone()) for limiter in cluster.limiters for _ in range(10))
        assert at_once == 40, "no process knows yet of the others"

        later = cluster.admitted(5.9, per_second=50, identity=someone(), shares=(1, 1, 1, 1))

        assert at_once + later <= 63

    def test_what_a_refusal_gives_back_is_given_back_in_all_processes(self, server: EmbeddedRedis) -> None:
        cluster = Cluster(server.url, Rates(10, 20), 2)
        one, other = cluster.limiters
        one.admit(someone(row=1), 6)
        cluster.sync(one)
        with pytest.raises(RateLimitExceeded):
            one.admit(someone(row=1), 10, consumed=5)
        other.admit(someone(row=2), 1)
        for limiter in (one, other):
            cluster.sync(limiter)

        assert other.admit(someone(row=2), 0).headers["RateLimit"] == '"key";r=9;t=1, "workspace";r=18;t=1'

    def test_traffic_that_moves_to_another_process_takes_its_count_along(self, server: EmbeddedRedis) -> None:
        cluster = Cluster(server.url, Rates(100, None), 2)
        first = cluster.admitted(3, per_second=400, identity=someone(), shares=(1, 0))
        second = cluster.admitted(3, per_second=400, identity=someone(), shares=(0, 1))

        assert 560 <= first + second <= 640

    def test_a_clock_of_redis_that_goes_back_an_hour_locks_no_client_out(self, server: EmbeddedRedis) -> None:
        cluster = Cluster(server.url, Rates(10, None), 1)
        (limiter,) = cluster.limiters
        limiter.admit(someone(), 10)
        cluster.sync(limiter)
        cluster.clock.now += 1.5
        assert is_admitted(limiter, someone())

        set_script_clock(server.url, cluster.clock() - 3_600)
        limiter.sync()
        cluster.clock.now += 1.5

        assert sum(is_admitted(limiter, someone()) for _ in range(20)) >= 5

    def test_idle_limits_leave_nothing_behind_in_redis(self, server: EmbeddedRedis) -> None:
        namespace = random_text(8)
        limiter = without_thread(Rates(10, 10), redis_sync=RedisSync(server.url, namespace))
        limiter.admit(someone(), 10)
        limiter.sync()

        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            names = client.keys(f"lariba:{namespace}:*")
            assert set(names) == {f"lariba:{namespace}:rate:{name}" for name in ("key_1", "workspace_1")}
            assert all(0 < client.pttl(name) <= 3_000 for name in names)

    def test_a_little_use_is_synced_once_it_adds_up(self, server: EmbeddedRedis) -> None:
        namespace = random_text(8)
        limiter = without_thread(Rates(1_000, None), redis_sync=RedisSync(server.url, namespace))
        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            limiter.admit(someone(), 4)
            limiter.sync()
            assert client.keys(f"lariba:{namespace}:*") == []

            limiter.admit(someone())
            limiter.sync()
            assert client.keys(f"lariba:{namespace}:*") == [f"lariba:{namespace}:rate:key_1"]

    def test_two_installations_do_not_count_for_each_other(self, server: EmbeddedRedis) -> None:
        rates = Rates(10, 10)
        ours, theirs = (without_thread(rates, redis_sync=RedisSync(server.url, random_text(8))) for _ in range(2))
        ours.admit(someone(), 10)
        ours.sync()
        theirs.admit(someone(), 0)
        theirs.sync()

        assert is_admitted(theirs, someone(), 10)

    def test_real_processes_with_real_threads_keep_to_one_rate(self, server: EmbeddedRedis, checkout: Path) -> None:
        seconds, limit = 4, 100
        command = [sys.executable, "-c", _SENDER, server.url, random_text(8), str(seconds), str(limit)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        senders = [subprocess.Popen(command, cwd=checkout, **pipes) for _ in range(3)]
        # However long a start takes, they begin at one moment.
        assert [sender.stdout.readline() for sender in senders if sender.stdout] == ["ready\n"] * 3
        begin = f"{time.time() + 0.1}\n"

        admitted = sum(int(sender.communicate(begin, timeout=30)[0]) for sender in senders)

        assert abs(admitted - limit * seconds) <= 0.1 * limit * seconds


_SENDER = """
import sys, threading, time
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded
from app.rate_limits import RateLimiter, Rates, RedisSync

url, namespace, seconds, limit = sys.argv[1:]
limiter = RateLimiter(Rates(int(limit), None), redis_sync=RedisSync(url, namespace))
admitted = []
print("ready", flush=True)
begin = sys.stdin.readline()

def send():
    time.sleep(max(0, float(begin) - time.time()))
    while time.time() < float(begin) + float(seconds):
        try:
            limiter.admit(Identity("key_1", 1, 1))
            admitted.append(1)
        except RateLimitExceeded:
            pass
        time.sleep(0.01)

threads = [threading.Thread(target=send) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(admitted))
"""


class TestRedisAway:
    @pytest.fixture(name="own")
    def _own(self, tmp_path: Path) -> Iterator[EmbeddedRedis]:
        with EmbeddedRedis(tmp_path / "redis") as server:
            yield server

    @pytest.mark.parametrize("outage", ["frozen", "killed"])
    def test_each_process_limits_alone_and_the_log_says_so_once_each_way(self, own: EmbeddedRedis, outage: str) -> None:
        clock = Clock()
        redis_sync = RedisSync(own.url, random_text(8), clock=clock)
        limiter = without_thread(Rates(10, None), redis_sync=redis_sync, clock=clock)
        limiter.admit(someone())
        limiter.sync()
        stop, restart = _outages(own)[outage]

        with logged_by("app.rate_limits.redis_sync") as lines:
            stop()
            for _ in range(3):
                clock.now += 2
                assert sum(is_admitted(limiter, someone()) for _ in range(20)) == 10
                limiter.sync()
            restart()
            clock.now += 2
            limiter.admit(someone())
            limiter.sync()
            limiter.sync()

        assert [line["event"] for line in lines] == ["rate_limits_redis_away", "rate_limits_redis_back"]
        assert {line["log_level"] for line in lines} == {"warning"}

    def test_a_frozen_redis_delays_no_request(self, own: EmbeddedRedis) -> None:
        limiter = RateLimiter(Rates(1_000_000, None), redis_sync=RedisSync(own.url, random_text(8)))
        own_pid = own.pid
        os.kill(own_pid, signal.SIGSTOP)
        try:
            longest, end = 0.0, time.monotonic() + 1.0
            while (before := time.monotonic()) < end:
                limiter.admit(someone())
                longest = max(longest, time.monotonic() - before)
        finally:
            os.kill(own_pid, signal.SIGCONT)

        assert longest < 0.25, "the time-out for Redis is half a second"

    def test_what_was_let_through_meanwhile_is_no_debt_afterwards(self, own: EmbeddedRedis) -> None:
        cluster = Cluster(own.url, Rates(10, None), 4)
        cluster.admitted(1, per_second=100, identity=someone(), shares=(1, 1, 1, 1))
        own.kill()
        cluster.admitted(10, per_second=100, identity=someone(), shares=(1, 1, 1, 1))
        own.start()

        cluster.admitted(3, per_second=100, identity=someone(), shares=(1, 1, 1, 1))
        after = cluster.admitted(5, per_second=100, identity=someone(), shares=(1, 1, 1, 1))

        assert 45 <= after <= 55

    def test_a_redis_address_without_a_server_delays_and_refuses_nothing(self) -> None:
        redis_sync = RedisSync("redis://127.0.0.1:1/0", "x")
        limiter = without_thread(Rates(5, None), redis_sync=redis_sync)

        assert sum(is_admitted(limiter, someone()) for _ in range(9)) == 5
        limiter.sync()


def _outages(server: EmbeddedRedis) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    return {
        "frozen": (
            lambda: os.kill(server.pid, signal.SIGSTOP),
            lambda: os.kill(server.pid, signal.SIGCONT),
        ),
        "killed": (server.kill, server.start),
    }


class TestBackground:
    def test_a_limit_in_the_database_reaches_a_process_that_is_running(self, context: Context, alice: Tenant) -> None:
        identity = Identity(alice.key_id, alice.key_row, alice.workspace_row)
        limiter = RateLimiter(Rates(None, None), read_overrides=lambda: read_overrides(context.database))
        assert limiter.admit(identity).headers == {}

        execute(context, "UPDATE source_keys SET events_per_second = 7 WHERE id = :id", id=alice.key_row)
        execute(context, "UPDATE workspaces SET events_per_second = 9 WHERE id = :id", id=alice.workspace_row)

        both = '"key";q=7;w=1, "workspace";q=9;w=1'
        wait_until(lambda: limiter.admit(identity, 0).headers.get("RateLimit-Policy") == both)

    def test_so_does_a_workspaces_limit_for_its_keys(self, context: Context, alice: Tenant) -> None:
        identity = Identity(alice.key_id, alice.key_row, alice.workspace_row)
        limiter = RateLimiter(Rates(None, None), read_overrides=lambda: read_overrides(context.database))
        assert limiter.admit(identity).headers == {}

        execute(context, "UPDATE workspaces SET key_events_per_second = 6 WHERE id = :id", id=alice.workspace_row)

        headers = wait_until(lambda: limiter.admit(identity, 0).headers)
        assert headers["RateLimit-Policy"] == '"key";q=6;w=1'

    def test_a_forked_child_has_a_thread_and_counts_of_its_own(self) -> None:
        limiter = RateLimiter(Rates(5, None))
        limiter.admit(someone(), 5)
        reading, writing = os.pipe()

        child = os.fork()
        if child == 0:  # pragma: no cover - in another process
            works = is_admitted(limiter, someone(), 5) and "rate-limits" in _threads()
            os.write(writing, b"yes" if works else b"no")
            os._exit(0)

        os.waitpid(child, 0)
        assert os.read(reading, 3) == b"yes"

    def test_a_machine_without_a_thread_for_it_admits_and_starts_it_later(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        limiter = RateLimiter(Rates(5, None))
        before = set(threading.enumerate())
        with monkeypatch.context() as machine:
            machine.setattr(threading.Thread, "start", refuse)
            limiter.admit(someone())
        limiter.admit(someone())

        begun = set(threading.enumerate()) - before
        assert [thread.name for thread in begun].count("rate-limits") == 1

    def test_the_thread_ends_with_its_limiter(self) -> None:
        def use() -> None:
            RateLimiter(Rates(5, None)).admit(someone())

        before = _threads().count("rate-limits")
        use()

        wait_until(lambda: _threads().count("rate-limits") <= before)


def _threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]
