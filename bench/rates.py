"""`python -m bench.rates`: what the rate limiter costs on this machine, on the ingest path and beside it.

Prints microseconds per admit(), headers included, while the background thread syncs with an embedded Redis ten times a
second, and what one such sync costs for 500 limits. For comparison: hit() of the library `limits` with the same Redis
and in memory, if it is installed.
"""

import gc
import importlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from app.credentials.verification import Identity
from app.errors import RateLimitExceeded
from app.rate_limits import RateLimiter, Rates, RedisSync
from app.rate_limits.gcra import LimitState
from local.redis import EmbeddedRedis

_CALLS = 100_000
_LIMIT = 10_000_000
"""Never reached."""


def _keys(count: int) -> list[Identity]:
    return [Identity(f"key_{row:016}", row, row % 100) for row in range(count)]


def _microseconds(call: Callable[[Identity], object], keys: list[Identity], *, threads: int = 1) -> float:
    """Wall time over all calls, of all threads together: what one call takes from the process."""
    calls = _CALLS // threads

    def run() -> None:
        for number in range(calls):
            call(keys[number % len(keys)])

    run()
    gc.collect()
    workers = [threading.Thread(target=run) for _ in range(threads)]
    begin = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return (time.perf_counter() - begin) / (calls * threads) * 1_000_000


def _admit(limiter: RateLimiter) -> Callable[[Identity], object]:
    def admit(identity: Identity) -> object:
        try:
            return limiter.admit(identity).headers
        except RateLimitExceeded as refusal:
            return refusal

    return admit


def _sync_microseconds(redis_sync: RedisSync, count: int) -> float:
    states = [LimitState(f"key_{number:016}", "key") for number in range(count)]
    for state in states:
        state.set_limit(_LIMIT)
    seconds = []
    for _ in range(20):
        for state in states:
            state.consume(60_000, time.monotonic())
        begin = time.perf_counter()
        redis_sync.sync(states)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) * 1_000_000


def _compare_with_limits(url: str) -> None:
    try:
        limits, storages, strategies = map(importlib.import_module, ("limits", "limits.storage", "limits.strategies"))
    except ImportError:
        return
    item = limits.RateLimitItemPerSecond(1_000_000)
    redis_url = url.replace("unix://", "redis+unix://")
    for name, storage in (("memory", storages.MemoryStorage()), ("Redis", storages.RedisStorage(redis_url))):
        hit = strategies.SlidingWindowCounterRateLimiter(storage).hit
        begin = time.perf_counter()
        for _ in range(2_000):
            hit(item, "key_a")
        print(f"{f'limits: hit(), one limit, {name}':44}{(time.perf_counter() - begin) * 500:10.1f} µs")


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder) / "data") as server:
        shared = RateLimiter(Rates(_LIMIT, _LIMIT), redis_sync=RedisSync(server.url, "bench"))
        for count in (1, 10_000):
            for threads in (1, 16):
                cost = _microseconds(_admit(shared), _keys(count), threads=threads)
                print(f"{f'admit(), {count:,} keys, {threads} threads':44}{cost:10.1f} µs")
        refusing = RateLimiter(Rates(1, 1), redis_sync=RedisSync(server.url, "bench-refusing"))
        print(f"{'admit() that refuses':44}{_microseconds(_admit(refusing), _keys(1)):10.1f} µs")
        for count in (2, 500):
            cost = _sync_microseconds(RedisSync(server.url, f"bench-sync-{count}"), count)
            print(f"{f'a sync of {count} limits':44}{cost:10.1f} µs")
        _compare_with_limits(server.url)


if __name__ == "__main__":
    main()
