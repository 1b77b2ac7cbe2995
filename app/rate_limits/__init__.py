"""Rate limits of credentials and their workspaces, over all processes together. Knows no Flask and no table.

limiter.py decides on each request from the states (gcra.py) in memory, without I/O. Ten times a second a background
thread syncs them with Redis (redis_sync.py); every two seconds it reads the limits from the tables (overrides.py).
"""

from app.rate_limits.gcra import EVENTS_PER_SECOND_MAX
from app.rate_limits.limiter import MANAGEMENT_TOKEN, Allowance, RateLimiter, Rates, events_worth
from app.rate_limits.overrides import Overrides, read_overrides
from app.rate_limits.redis_sync import RedisSync, namespace_of

__all__ = [
    "EVENTS_PER_SECOND_MAX",
    "MANAGEMENT_TOKEN",
    "Allowance",
    "Overrides",
    "RateLimiter",
    "Rates",
    "RedisSync",
    "events_worth",
    "namespace_of",
    "read_overrides",
]
