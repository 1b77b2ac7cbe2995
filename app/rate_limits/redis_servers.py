"""Connects to Redis without waiting long, and rejects a Redis Cluster before the process serves.

Each node of a cluster holds a part of the keys and redirects calls for the others, but one call syncs many limits,
and the broker's queues belong together: every second call would fail, and each process would count rates for itself
unnoticed. So a cluster ends the start, as a wrong setting does; a Redis that is away does not.
"""

from typing import Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_SCHEMES: Final = ("redis", "rediss", "unix")
# A healthy Redis answers in a millisecond; a frozen one delays the start, or one sync, by this.
_TIMEOUT_SECONDS: Final = 0.5


class RedisClusterError(Exception):
    """A setting names a node of a Redis Cluster; the message is one line and starts with the variable's name."""


def connect_once(url: str) -> redis.Redis:
    """A client that tries each call once: its own retries would sleep."""
    return redis.Redis.from_url(
        url, socket_timeout=_TIMEOUT_SECONDS, socket_connect_timeout=_TIMEOUT_SECONDS, retry=Retry(NoBackoff(), 0)
    )


def require_no_cluster(variable: str, url: str) -> None:
    """Raises RedisClusterError if the Redis at `url`, the value of `variable`, is a node of a cluster."""
    if urlsplit(url).scheme not in _SCHEMES:
        return  # none, or RabbitMQ
    with connect_once(url) as client:
        try:
            is_cluster = client.info("cluster").get("cluster_enabled") == 1
        except redis.RedisError:
            return  # away, or without INFO: once the process serves, lariba_rate_limits_shared shows it
    if is_cluster:
        raise RedisClusterError(
            f"{variable} names a Redis Cluster, which keeps its keys apart on several nodes: name a single Redis"
            " (a primary with replicas will do)"
        )
