"""The broker stops, dies, forgets or freezes under a worker at work and a beat: both go on by themselves.

On the embedded Redis, whatever TEST_BROKER_URL says: no other broker is stopped.
"""

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import redis

from app.config import Settings
from app.database.migrate import migrate
from app.worker import create_celery
from local.redis import EmbeddedRedis
from tests.support import holding
from tests.support.celery_processes import QUEUE, beat, worker
from tests.support.databases import fresh_database
from tests.support.holding import Root
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.wiring, pytest.mark.slow]

_PATIENCE_SECONDS = 60
_LATER = """
    UPDATE maintenance_tasks SET started_at = started_at - interval '1 hour',
        succeeded_at = succeeded_at - interval '1 hour' WHERE name = 'canary' AND succeeded_at >= started_at
"""
_RUNS = """
    SELECT coalesce(sum(runs - failures - (started_at > coalesce(succeeded_at, '-infinity'))::int), 0),
        coalesce(sum(failures), 0) FROM maintenance_tasks WHERE name = 'canary'
"""


@dataclass(frozen=True, slots=True)
class _Canary:
    """Its runs prove that beat sends, the broker carries and a worker consumes."""

    root: Root
    worker: subprocess.Popen[bytes]
    beat: subprocess.Popen[bytes]

    def runs(self) -> tuple[int, int]:
        """The good ones and the bad ones."""
        found = self.root.execute(_RUNS).fetchone()
        assert found is not None
        return int(found[0]), int(found[1])

    def is_wanted(self) -> None:
        """As if an hour had passed: a run is due at the next tick."""
        self.root.execute(_LATER)

    def sings(self) -> None:
        """Wait for two more runs: the first may have been on its way."""
        good, _ = self.runs()

        def has_sung() -> bool:
            assert (self.worker.poll(), self.beat.poll()) == (None, None), "worker or beat has ended"
            self.is_wanted()
            return self.runs()[0] >= good + 2

        wait_until(has_sung, _PATIENCE_SECONDS)


@pytest.fixture(scope="module", name="broker")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path_factory.mktemp("faults") / "data") as broker:
        yield broker


@pytest.fixture(scope="module", name="settings")
def _settings(server_url: str, broker: EmbeddedRedis) -> Iterator[Settings]:
    with fresh_database(server_url) as fresh:
        migrate(fresh)
        yield replace(fresh, broker_url=broker.broker_url)


@pytest.fixture(scope="module", name="canary")
def _canary(server_url: str, settings: Settings, checkout: Path) -> Iterator[_Canary]:
    """Of one worker and one beat, which live through all tests of this file but one."""
    with _canary_of(server_url, settings, checkout) as canary:
        yield canary


@contextmanager
def _canary_of(server_url: str, settings: Settings, checkout: Path) -> Iterator[_Canary]:
    with (
        holding.root_of(server_url, settings) as root,
        worker(settings, checkout, processes=2) as its_worker,
        beat(settings, checkout) as its_beat,
    ):
        holding.prepare(root)
        canary = _Canary(root, its_worker, its_beat)
        canary.sings()
        yield canary


def _restart(broker: EmbeddedRedis) -> None:
    broker.stop()
    broker.start()


def _die(broker: EmbeddedRedis) -> None:
    broker.kill()
    broker.start()


def _lose_everything(broker: EmbeddedRedis) -> None:
    broker.kill()
    shutil.rmtree(broker.directory / "appendonlydir", ignore_errors=True)
    broker.start()


def _forget(broker: EmbeddedRedis) -> None:
    with redis.Redis.from_url(broker.url) as client:
        client.flushall()


def _hang_up(broker: EmbeddedRedis) -> None:
    """What a failover or a proxy does: all connections end, and new ones are accepted at once."""
    with redis.Redis.from_url(broker.url) as client:
        for kind in ("normal", "pubsub"):
            client.client_kill_filter(_type=kind, skipme=True)


def _freeze(broker: EmbeddedRedis) -> None:
    """Long enough for both to meet it: another client waits for three answers in vain."""
    process = psutil.Process(broker.pid)
    process.suspend()
    try:
        with redis.Redis.from_url(broker.url, socket_timeout=1, retry=None) as client:
            for _ in range(3):
                with pytest.raises(redis.TimeoutError):
                    client.ping()
    finally:
        process.resume()


@pytest.mark.parametrize("fault", [_restart, _die, _lose_everything, _forget, _hang_up, _freeze])
def test_a_run_under_way_comes_to_its_end_and_worker_and_beat_go_on(
    canary: _Canary, broker: EmbeddedRedis, fault: Callable[[EmbeddedRedis], None]
) -> None:
    good, bad = canary.runs()
    with holding.holding(canary.root):
        canary.is_wanted()
        wait_until(lambda: holding.is_held(canary.root))
        fault(broker)
    wait_until(lambda: canary.runs()[0] > good)

    canary.sings()
    assert canary.runs()[1] == bad


def test_a_worker_that_answers_and_consumes_nothing_is_found_out_by_the_canary(
    canary: _Canary, settings: Settings, broker: EmbeddedRedis
) -> None:
    celery = create_celery(settings)
    celery.control.cancel_consumer(QUEUE, reply=True)
    runs = canary.runs()
    canary.is_wanted()
    with redis.Redis.from_url(broker.url) as client:
        wait_until(lambda: client.llen(QUEUE) > len(celery.conf.beat_schedule))

    assert [list(answer.values()) for answer in celery.control.ping() or []] == [[{"ok": "pong"}]]
    assert canary.runs() == runs

    celery.control.add_consumer(QUEUE, reply=True)
    celery.close()
    canary.sings()


def test_worker_and_beat_end_at_a_signal_while_the_broker_is_away(
    server_url: str, checkout: Path, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "data") as broker, fresh_database(server_url) as fresh:
        migrate(fresh)
        with _canary_of(server_url, replace(fresh, broker_url=broker.broker_url), checkout) as canary:
            broker.stop()
            for process in (canary.worker, canary.beat):
                process.send_signal(signal.SIGTERM)

            assert [canary.worker.wait(_PATIENCE_SECONDS), canary.beat.wait(_PATIENCE_SECONDS)] == [0, 0]
