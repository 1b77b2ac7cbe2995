from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from kombu import Connection

from local.redis import EmbeddedRedis


@pytest.fixture(name="server")
def _server(awkward_folder: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(awkward_folder / "redis") as server:
        yield server


@pytest.fixture(name="client")
def _client(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


def test_redis_py_and_celerys_transport_reach_the_same_server(server: EmbeddedRedis, client: redis.Redis) -> None:
    with Connection(server.broker_url) as connection, connection.SimpleQueue("errands") as queue:
        queue.put({"errand": 1})

        assert client.llen("errands") == 1
        assert queue.get(timeout=10).payload == {"errand": 1}


def test_a_short_path_with_a_space_serves_both_spellings(short_folder: Path) -> None:
    with EmbeddedRedis(short_folder / "a b+c" / "redis") as server:
        assert server.url.endswith("/a%20b%2Bc/redis/redis.sock")
        with redis.Redis.from_url(server.url) as client, Connection(server.broker_url) as connection:
            connection.SimpleQueue("errands").put({})
            assert client.llen("errands") == 1


def test_what_was_queued_survives_a_kill_and_a_stop(server: EmbeddedRedis, client: redis.Redis) -> None:
    client.lpush("errands", "first")
    server.kill()
    server.start()
    client.lpush("errands", "second")
    server.stop()
    server.start()

    assert client.lrange("errands", 0, -1) == ["second", "first"]


def test_it_never_evicts_and_no_network_reaches_it(server: EmbeddedRedis, client: redis.Redis) -> None:
    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert [one for one in psutil.net_connections("inet") if one.pid == server.pid] == []
