"""Rate limiters whose time and syncs happen when a test says so."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import redis

from app.concurrency.background import Background
from app.credentials.verification import Identity
from app.errors import RateLimitExceeded
from app.identifiers import random_text
from app.rate_limits import RateLimiter, Rates, RedisSync
from app.rate_limits.redis_sync import SYNC_SCRIPT


@dataclass
class Clock:
    """Time that passes when a test says so."""

    now: float = 5_000_000.0

    def __call__(self) -> float:
        return self.now


class NoThread(Background):
    """A background that never runs."""

    def start(self) -> bool:
        return False


def without_thread(rates: Rates, **arguments: Any) -> RateLimiter:
    return RateLimiter(rates, background=NoThread, **arguments)


def syncs_with_clock(count: int, url: str, clock: Clock) -> list[RedisSync]:
    """Connections of one installation's processes, whose script reads the time of `set_script_clock` as Redis's."""
    namespace = random_text(8)
    script = SYNC_SCRIPT.replace("redis.call('TIME')", "redis.call('LRANGE', 'clock', 0, 1)")
    assert script != SYNC_SCRIPT
    with patch("app.rate_limits.redis_sync.SYNC_SCRIPT", script):
        return [RedisSync(url, namespace, clock=clock) for _ in range(count)]


def set_script_clock(url: str, seconds: float) -> None:
    """Does nothing while Redis is away."""
    moment = divmod(round(seconds * 1_000_000), 1_000_000)
    with suppress(redis.ConnectionError), redis.Redis.from_url(url) as client, client.pipeline() as pipeline:
        pipeline.delete("clock").rpush("clock", *moment).execute()


def is_admitted(limiter: RateLimiter, identity: Identity, events: int = 1) -> bool:
    try:
        limiter.admit(identity, events)
    except RateLimitExceeded:
        return False
    return True
