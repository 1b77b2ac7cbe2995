"""`python -m bench.rates`: what the rate limiter costs on this machine, on the ingest path and beside it.

Prints microseconds per admit(), headers included, while the background thread reports to an embedded Redis ten times a
second, and what one such step costs for 500 limits. For comparison: hit() of the library `limits` with the same Redis
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
from app.rate_limits import RateLimiter, Rates, Sharing
from local.redis import EmbeddedRedis

_CALLS = 100_000
_NO_LIMIT_MET = Rates(10_000_000, 10_000_000)


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
        shared = RateLimiter(_NO_LIMIT_MET, sharing=Sharing(server.url, "bench"))
        for count in (1, 10_000):
            for threads in (1, 16):
                price = _microseconds(_admit(shared), _keys(count), threads=threads)
                print(f"{f'admit(), {count:,} keys, {threads} threads':44}{price:10.1f} µs")
        refusing = RateLimiter(Rates(1, 1), sharing=Sharing(server.url, "bench-refusing"))
        print(f"{'admit() that refuses':44}{_microseconds(_admit(refusing), _keys(1)):10.1f} µs")
        stepped = RateLimiter(_NO_LIMIT_MET, sharing=Sharing(server.url, "bench-step"), in_background=False)
        for count in (1, 400):
            taken = []
            for _ in range(20):
                for identity in _keys(count):
                    stepped.admit(identity, 60_000)  # as many as make it worth telling
                begin = time.perf_counter()
                stepped.synchronise()
                taken.append(time.perf_counter() - begin)
            name = f"a step that tells of {min(count, 100) + count} limits"
            print(f"{name:44}{statistics.median(taken) * 1_000_000:10.1f} µs")
        _compare_with_limits(server.url)


if __name__ == "__main__":
    main()
