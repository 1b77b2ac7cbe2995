"""Adds up in Redis what all processes have let through. Knows no thread; waits half a second at the most.

Redis may be absent, away, frozen or full: then nothing is learnt, the log says so once, and each process counts for
itself. What could not be told is not told later: it would be a debt from a time that is over.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.rate_limits.window import SPAN_SECONDS, Report, Standing
from app.telemetry import metrics

_log = structlog.get_logger()

_TIMEOUT_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_SECOND = 1_000_000

# The same rules as window.py, on one clock for all: Redis's own. Should that clock go back, all moments of a limit go
# back with it, so that nobody is locked out until the old time is reached again. A limit that has rested expires.
_SETTLE = """
local span = tonumber(ARGV[1])
local now = tonumber(ARGV[2])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end
local standings = {}
for i, key in ipairs(KEYS) do
  local bought, arrived, has_refused = tonumber(ARGV[3 * i]), now - ARGV[3 * i + 1], ARGV[3 * i + 2] == '1'
  local known = redis.call('HMGET', key, 'opened', 'spent', 'refused', 'seen')
  local back = math.max(0, (tonumber(known[4]) or now) - now)
  local opened = (tonumber(known[1]) or arrived - span) - back
  local spent = (tonumber(known[2]) or arrived) - back
  local refused = (tonumber(known[3]) or arrived - span) - back
  if spent <= arrived and opened + span <= arrived and refused + span <= arrived then
    opened, spent = arrived, arrived
  end
  spent = math.max(spent, now - span) + bought
  if has_refused then
    refused = now
  end
  redis.call('HSET', key, 'opened', opened, 'spent', spent, 'refused', refused, 'seen', now)
  redis.call('PEXPIRE', key, math.ceil((math.max(spent, opened + span, refused + span) - now) / 1000) + 1000)
  standings[3 * i - 2], standings[3 * i - 1], standings[3 * i] = opened - now, spent - now, refused - now
end
return standings
"""


class Sharing:
    """One process's way to the counts that all processes share."""

    def __init__(
        self, url: str, namespace: str, *, clock: Callable[[], float] = time.monotonic, moment: str = ""
    ) -> None:
        # Its own retries would sleep; the next report comes soon enough.
        client = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_SECONDS,
            socket_connect_timeout=_TIMEOUT_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._settle = client.register_script(_SETTLE)
        self._prefix = f"lariba:{namespace}:rate:"
        self._clock = clock
        self._is_away = False
        self._retry_at = float("-inf")
        self.moment = moment
        """Microseconds; for a test that brings its own time. Empty: Redis's clock."""

    def settle(self, reports: Sequence[Report]) -> list[Standing] | None:
        """Tell what was bought here, learn where each limit stands; None while Redis is away."""
        if self._is_away and self._clock() < self._retry_at:
            return None
        try:
            standings = self._call(reports)
        except redis.RedisError as error:
            metrics.LIMITS_SHARED.labels("redis").set(0)
            self._retry_at = self._clock() + _RETRY_SECONDS
            if not self._is_away:
                _log.warning("rate_limits_redis_away", cause=f"{type(error).__name__}: {error}")
            self._is_away = True
            return None
        metrics.LIMITS_SHARED.labels("redis").set(1)
        if self._is_away:
            _log.warning("rate_limits_redis_back")
        self._is_away = False
        return standings

    def probe(self) -> None:
        """Find out whether limits are shared, also while there is nothing to tell."""
        self.settle([Report(f"probe_{n}", 0.0, 0.0, has_refused=False) for n in range(2)])

    def _call(self, reports: Sequence[Report]) -> list[Standing]:
        keys = [self._prefix + report.name for report in reports]
        arguments: list[str | float] = [SPAN_SECONDS * _SECOND, self.moment]
        for report in reports:
            arguments += (report.spent * _SECOND, round(report.age * _SECOND), int(report.has_refused))
        answer = self._settle(keys=keys, args=arguments)
        seconds = [number / _SECOND for number in answer]
        return [Standing(*seconds[at : at + 3]) for at in range(0, len(seconds), 3)]


def namespace_of(secret_key: str) -> str:
    """What keeps two installations apart that share one Redis: what all processes of one have in common."""
    return hashlib.sha256(b"lariba redis namespace " + secret_key.encode()).hexdigest()[:8]
