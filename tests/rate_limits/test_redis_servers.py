"""A Redis Cluster ends the start with one line, and whether rates are shared can be seen in any case."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.config import Settings
from app.credentials.verification import Identity
from app.identifiers import random_text
from app.rate_limits import Rates, RedisSync
from app.rate_limits.redis_servers import RedisClusterError, require_no_cluster
from app.telemetry import metrics
from local.program import Program
from local.redis import EmbeddedRedis
from tests.support.live import environment_of, free_port
from tests.support.rates import without_thread


class _ClusterNode(EmbeddedRedis):
    """A node of a cluster, alone as it is."""

    port: int

    def program(self) -> Program:
        program = super().program()
        self.port = free_port()
        options = ("--port", str(self.port), "--bind", "127.0.0.1", "--cluster-enabled", "yes")
        return replace(program, command=(*program.command, *options))


@pytest.fixture(name="node", scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_ClusterNode]:
    with _ClusterNode(tmp_path_factory.mktemp("node") / "data") as node:
        yield node


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("redis") / "data") as server:
        yield server


@pytest.mark.parametrize(
    ("command", "variable"),
    [
        (["-c", "import wsgi"], "LARIBA_REDIS_URL"),
        (["-m", "celery", "-A", "wsgi.celery", "worker"], "LARIBA_BROKER_URL"),
        (["-m", "celery", "-A", "wsgi.celery", "beat"], "LARIBA_BROKER_URL"),
    ],
)
@pytest.mark.slow
def test_a_cluster_ends_the_start_with_one_line_that_names_the_setting(
    settings: Settings, checkout: Path, node: _ClusterNode, command: list[str], variable: str
) -> None:
    environment = environment_of(settings) | {variable: f"redis://127.0.0.1:{node.port}/0"}

    ended = subprocess.run(
        [sys.executable, *command], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )

    assert ended.returncode != 0
    lines = [line for line in ended.stderr.splitlines() if line.startswith("lariba: ")]
    assert len(lines) == 1
    assert lines[0].startswith(f"lariba: {variable} names a Redis Cluster")
    assert "Traceback" not in ended.stderr


def test_a_redis_that_is_one_away_or_none_lets_the_process_start(server: EmbeddedRedis, node: _ClusterNode) -> None:
    for url in (server.url, "redis://127.0.0.1:1/0", "", "amqp://localhost"):
        require_no_cluster("LARIBA_REDIS_URL", url)
    with pytest.raises(RedisClusterError):
        require_no_cluster("LARIBA_REDIS_URL", node.url)


def _shared() -> float | None:
    return metrics.REGISTRY.get_sample_value("lariba_rate_limits_shared", {"through": "redis"})


def test_the_gauge_shows_whether_rates_are_shared_also_while_nothing_is_sent(
    server: EmbeddedRedis, node: _ClusterNode
) -> None:
    def learnt(url: str) -> float | None:
        limiter = without_thread(Rates(1, 1), redis_sync=RedisSync(url, random_text(8)))
        limiter.step()
        return _shared()

    assert learnt(server.url) == 1
    assert learnt("redis://127.0.0.1:1/0") == 0
    assert learnt(server.url) == 1
    assert learnt(node.url) == 0


def test_the_gauge_shows_at_the_next_sync_that_redis_has_gone_away(server: EmbeddedRedis) -> None:
    limiter = without_thread(Rates(1, 1), redis_sync=RedisSync(server.url, random_text(8)))
    limiter.step()
    assert _shared() == 1

    gone = without_thread(Rates(1, 1), redis_sync=RedisSync("redis://127.0.0.1:1/0", "x"))
    gone.admit(Identity("key_1", 1, 1))
    gone.sync()

    assert _shared() == 0
