"""Looks at a Redis before the process serves: a Redis Cluster cannot be what the product needs.

Each node of a cluster keeps a part of the keys and sends away whoever asks it for another part. Limits that are told
together, what is warm, and the broker's queues are one whole: every second call would fail, and each process would
count rates for itself without a word. So that ends the start, as a wrong setting does; a Redis that is away does not.
"""

from typing import Final
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

_SCHEMES: Final = ("redis", "rediss", "unix")
# A healthy Redis answers in one millisecond; one that is frozen is away, and delays the start by this.
_TIMEOUT_SECONDS: Final = 0.5


class RedisClusterError(Exception):
    """A setting names a node of a Redis Cluster; the message is one line and starts with the variable's name."""


def require_no_cluster(variable: str, url: str) -> None:
    """Raises RedisClusterError if the Redis at `url`, the value of `variable`, is a node of a cluster."""
    if urlsplit(url).scheme not in _SCHEMES:
        return  # none, or RabbitMQ
    client = redis.Redis.from_url(
        url,
        socket_timeout=_TIMEOUT_SECONDS,
        socket_connect_timeout=_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
    )
    with client:
        try:
            is_cluster = client.info("cluster").get("cluster_enabled") == 1
        except redis.RedisError:
            return  # away, or it does not say: then limits_shared tells, once the process serves
    if is_cluster:
        raise RedisClusterError(
            f"{variable} names a Redis Cluster, which keeps its keys apart on several nodes: name a single Redis"
            " (a primary with replicas will do)"
        )
