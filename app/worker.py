"""The Celery app: settings, tasks and the beat schedule. Knows no Flask."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from celery import Celery
from celery.schedules import schedule
from celery.signals import setup_logging
from kombu.transport.redis import Channel

from app.config import Settings
from app.database.engine import Database
from app.maintenance import tasks
from app.maintenance.runs import Task
from app.maintenance.schedule import TASKS
from app.telemetry import logs

# A worker process runs one task at a time; the second connection is for the moment in which one is being replaced.
_POOL_SIZE: Final = 2

# A task is rung at least this often, so that one that was missed, failed or has more to do is taken up soon; whether it
# is due is decided when the bell is heard (app/maintenance/runs.py).
_RING_SECONDS_MAX: Final = 10.0
# What rang while no worker was there need not be heard; once is enough. But clocks differ between machines, and a
# worker that takes each bell for an old one would never work again: so not sooner than they may differ.
_EXPIRES_SECONDS: Final = 300

_STARTED: Final = (datetime.now(UTC), time.monotonic())

# A bell that is lost, late, or heard twice changes nothing (app/maintenance/runs.py), so all of these choose what gets
# over a fault soonest. docs/maintenance.md tells operators of them.
_SETTINGS: Final[dict[str, Any]] = {
    "task_default_queue": "maintenance",
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "timezone": "UTC",
    "enable_utc": True,
    # A bell is acknowledged when its run is over, and given back when the process that ran it is killed. With a
    # prefetch of 1 a worker takes as many bells as it has processes: none waits behind a long run while others idle.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    # A run that has begun needs the broker no more. To cancel it when the broker goes would throw its work away.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # For ever. The default, a hundred times, is an hour, and then worker and beat would end.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # RabbitMQ closes the channel of a bell that is not acknowledged within half an hour (its consumer_timeout). The
    # worker opens a new one and the run goes on; without this the worker would end.
    "broker_channel_error_retry": True,
    # RabbitMQ behind a dead network is given up after a minute, not after four.
    "broker_heartbeat": 30,
    # No bell is worth a write to RabbitMQ's disk.
    "task_default_delivery_mode": "transient",
    # KiB. A process that a leak or a large run has swollen is replaced after its task.
    "worker_max_memory_per_child": 512 * 1024,
    # In memory. What has run is known to PostgreSQL; a file can break, or remember a time that is yet to come.
    "beat_scheduler": "celery.beat:Scheduler",
}
_REDIS: Final = {
    # A command to a Redis that is frozen, or behind a dead network, fails in the end. Without this it waits for ever,
    # and the worker or beat with it: alive, connected and deaf.
    "socket_timeout": 10,
    "socket_connect_timeout": 4,
    "socket_keepalive": True,
    # How overdue the answer on an idle connection may be before it is replaced.
    "health_check_interval": 10,
    # A bell that a worker has taken is gone from Redis. Else kombu keeps a copy until it is acknowledged and gives it
    # out again after an hour (its visibility timeout), in the middle of a long run; and Celery 5.7 ends, with an
    # AttributeError, when it acknowledges a bell whose connection was lost during the run.
    "ack_emulation": False,
}


def _steady_now() -> datetime:
    """The clock by which beat rings: a machine's clock that is set back would silence it until it has caught up."""
    moment, seconds = _STARTED
    return moment + timedelta(seconds=time.monotonic() - seconds)


def _bell(task: Task) -> dict[str, Any]:
    every = timedelta(seconds=min(task.every.total_seconds(), _RING_SECONDS_MAX))
    return {
        "task": task.bell,
        "schedule": schedule(every, nowfun=_steady_now),
        "options": {"expires": _EXPIRES_SECONDS},
    }


BEAT_SCHEDULE: Final = {task.name: _bell(task) for task in TASKS}


def create_celery(settings: Settings) -> Celery:
    """The Celery app for `settings`; connects to nothing yet."""
    celery = Celery("lariba", broker=settings.broker_url)
    # Bells that runs under way have taken are not put back when the connection to Redis is lost: the next ones are rung
    # soon. Kombu would try on the lost connection, log an emergency, and leave them as a file in the temporary folder.
    Channel.do_restore = False
    is_redis = urlsplit(settings.broker_url).scheme.startswith(("redis", "sentinel"))
    celery.conf.update(_SETTINGS, broker_transport_options=_REDIS if is_redis else {}, beat_schedule=BEAT_SCHEDULE)
    database = Database(settings.database_url, pool_size=_POOL_SIZE, application_name="lariba-worker")
    tasks.register(celery, database, settings)
    setup_logging.connect(lambda **_: logs.configure(settings.log_level), weak=False)
    return celery
