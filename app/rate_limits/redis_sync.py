"""Syncs limits with Redis, so that all processes keep to one rate. Knows no thread; one call waits 0.5 s at most.

Redis may be absent, away, frozen or full: then each process counts for itself, and the log says so once. A delta that
did not arrive is dropped: sent later, it would be a debt from a time that is over.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from typing import Final

import redis
import structlog

from app.rate_limits.gcra import LimitState
from app.rate_limits.redis_servers import connect_once
from app.telemetry import metrics

_log = structlog.get_logger()

_RETRY_SECONDS = 1.0
_SECOND = 1_000_000
# Redis serves no other call while the script runs.
_LIMITS_PER_CALL = 500

# The rules of gcra.py on the one clock that all processes share: Redis's own, in microseconds. If that clock goes
# back, all times of a limit go back with it: otherwise the limit would refuse until the old time is reached again.
SYNC_SCRIPT: Final = """
local window, time = 1000000, redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local answer = {}
for i, key in ipairs(KEYS) do
  local consumed, arrival, is_refused = tonumber(ARGV[3 * i - 2]), now - ARGV[3 * i - 1], ARGV[3 * i] == '1'
  local known = redis.call('HMGET', key, 'tat', 'window_end', 'next_window_start', 'synced_at')
  local back = math.max(0, (tonumber(known[4]) or now) - now)
  local tat = (tonumber(known[1]) or arrival) - back
  local window_end = (tonumber(known[2]) or arrival) - back
  local next_window_start = (tonumber(known[3]) or arrival) - back
  if tat <= arrival and next_window_start <= arrival then
    tat, window_end, next_window_start = arrival, arrival + window, arrival + window
  end
  tat = math.max(tat, now - window) + consumed
  if is_refused then
    next_window_start = now + window
  end
  redis.call('HSET', key, 'tat', tat, 'window_end', window_end, 'next_window_start', next_window_start,
    'synced_at', now)
  redis.call('PEXPIRE', key, math.ceil((math.max(tat, next_window_start) - now) / 1000) + 1000)
  answer[i] = {tat - now, window_end - now, next_window_start - now}
end
return answer
"""


class RedisSync:
    """One process's connection to the limits that all processes share."""

    def __init__(self, url: str, namespace: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._script = connect_once(url).register_script(SYNC_SCRIPT)
        self._prefix = f"lariba:{namespace}:rate:"
        self._clock = clock
        self._is_away = False
        self._retry_at = float("-inf")

    def sync(self, states: Sequence[LimitState]) -> None:
        """Add to Redis what `states` consumed here, and merge into them what all processes consumed."""
        for first in range(0, len(states), _LIMITS_PER_CALL):
            batch = states[first : first + _LIMITS_PER_CALL]
            now = self._clock()
            arguments: list[float] = []
            for state in batch:
                consumed, age, is_refused = state.take_delta(now)
                arguments += (consumed * _SECOND, round(age * _SECOND), int(is_refused))
            moments = self._call([self._prefix + state.name for state in batch], arguments)
            now = self._clock()
            for state, moment in zip(batch, moments, strict=False):
                state.merge(*(now + microseconds / _SECOND for microseconds in moment))

    def probe(self) -> None:
        """Find out whether limits are shared, also while no request comes. A cluster refuses two keys at once."""
        self.sync([LimitState(f"probe_{n}", "probe") for n in range(2)])

    def _call(self, keys: list[str], arguments: list[float]) -> list[list[int]]:
        """The script's answer; empty while Redis is away."""
        if self._is_away and self._clock() < self._retry_at:
            return []
        try:
            answer: list[list[int]] = self._script(keys=keys, args=arguments)
        except redis.RedisError as error:
            metrics.LIMITS_SHARED.labels("redis").set(0)
            self._retry_at = self._clock() + _RETRY_SECONDS
            if not self._is_away:
                _log.warning("rate_limits_redis_away", cause=f"{type(error).__name__}: {error}")
            self._is_away = True
            return []
        metrics.LIMITS_SHARED.labels("redis").set(1)
        if self._is_away:
            _log.warning("rate_limits_redis_back")
        self._is_away = False
        return answer


def namespace_of(secret_key: str, cell: str) -> str:
    """Keeps two installations apart that share one Redis, and two cells of one; the same in all processes of a cell."""
    digest = hashlib.sha256(b"lariba redis namespace " + secret_key.encode()).hexdigest()[:8]
    return f"{digest}:{cell}" if cell else digest
