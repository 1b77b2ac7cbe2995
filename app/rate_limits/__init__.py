"""How fast a credential and its workspace may send, over all processes together. Knows no Flask and no table.

window.py (what is left?) is asked by limiter.py on the road, without any I/O; a thread (concurrency/background.py) lets
sharing.py tell Redis every 100 ms what this process has let through, and learn what the others have.
"""

from app.rate_limits.limiter import MANAGEMENT_TOKEN, Allowance, RateLimiter, Rates, events_worth
from app.rate_limits.overrides import Overrides, read_overrides
from app.rate_limits.sharing import Sharing, namespace_of

__all__ = [
    "MANAGEMENT_TOKEN",
    "Allowance",
    "Overrides",
    "RateLimiter",
    "Rates",
    "Sharing",
    "events_worth",
    "namespace_of",
    "read_overrides",
]
