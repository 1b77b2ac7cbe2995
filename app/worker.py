"""The Celery app: its settings, its tasks and the schedule of beat."""

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
from app.maintenance.celery_tasks import register
from app.maintenance.schedule import TASKS
from app.maintenance.task import Task
from app.telemetry import logs

# A worker process runs one task at a time; the second connection is for the moment in which one is being replaced.
_POOL_SIZE: Final = 2

# Beat sends a tick for each task at least this often, so that a task that was missed, has failed or has more to do runs
# soon. The worker decides whether it is due (app/maintenance/scheduler.py).
_TICK_SECONDS_MAX: Final = 10.0
# Ticks that were sent while no worker ran can be dropped. But clocks differ between machines, and a worker that takes
# each tick for expired would never work again, so they expire no sooner than clocks may differ.
_EXPIRES_SECONDS: Final = 300

_STARTED: Final = (datetime.now(UTC), time.monotonic())

# A tick that is lost, late or doubled changes nothing (app/maintenance/scheduler.py), so each setting is chosen for the
# fastest recovery. docs/maintenance.md explains them to operators.
_SETTINGS: Final[dict[str, Any]] = {
    "task_ignore_result": True,
    "task_serializer": "json",
    "accept_content": ["json"],
    "timezone": "UTC",
    "enable_utc": True,
    # A tick is acknowledged when its run is over, and redelivered when the process of the run is killed. With a
    # prefetch of 1 a worker takes as many ticks as it has processes: none waits behind a long run while others idle.
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "worker_prefetch_multiplier": 1,
    # A run does not need the broker. Cancelling it when the broker is lost would discard its work.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Without end. After the default, a hundred retries in an hour, worker and beat would exit.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    # RabbitMQ closes the channel of a tick that is not acknowledged within half an hour (its consumer_timeout). The
    # worker opens a new one and the run goes on; without this the worker would exit.
    "broker_channel_error_retry": True,
    # A RabbitMQ behind a dead network is given up after a minute, not after four.
    "broker_heartbeat": 30,
    # A lost tick is harmless, so RabbitMQ need not write it to disk.
    "task_default_delivery_mode": "transient",
    # KiB. A process that a leak or a large run has grown is replaced after its task.
    "worker_max_memory_per_child": 512 * 1024,
    # In memory. PostgreSQL knows what has run; a file can break, or hold a time in the future.
    "beat_scheduler": "celery.beat:Scheduler",
}
_REDIS: Final = {
    # A command to a Redis that is frozen, or behind a dead network, fails. Without this it waits for ever, and worker
    # or beat are connected but do nothing.
    "socket_timeout": 10,
    "socket_connect_timeout": 4,
    "socket_keepalive": True,
    # How overdue the answer on an idle connection may be before it is replaced.
    "health_check_interval": 10,
    # A tick that a worker has taken is removed from Redis. Otherwise kombu keeps a copy until the acknowledgement and
    # redelivers it after an hour (its visibility timeout), in the middle of a long run; and Celery 5.7 exits with an
    # AttributeError when it acknowledges a tick whose connection was lost during the run.
    "ack_emulation": False,
}


def _steady_now() -> datetime:
    """Beat's clock: monotonic, because beat would pause after the system clock is set back."""
    moment, seconds = _STARTED
    return moment + timedelta(seconds=time.monotonic() - seconds)


def _tick(task: Task) -> dict[str, Any]:
    every = timedelta(seconds=min(task.every.total_seconds(), _TICK_SECONDS_MAX))
    return {
        "task": task.celery_name,
        "schedule": schedule(every, nowfun=_steady_now),
        "options": {"expires": _EXPIRES_SECONDS},
    }


BEAT_SCHEDULE: Final = {task.name: _tick(task) for task in TASKS}


def create_celery(settings: Settings) -> Celery:
    """The Celery app for `settings`; connects to nothing yet."""
    celery = Celery("lariba", broker=settings.broker_url)
    # Ticks of current runs are not restored when the connection to Redis is lost: the next ones come soon. Kombu would
    # try that on the lost connection, log an emergency, and leave the ticks in a file in the temporary folder.
    Channel.do_restore = False
    is_redis = urlsplit(settings.broker_url).scheme.startswith(("redis", "sentinel"))
    # Cells may share a broker.
    queue = "-".join(filter(None, ("maintenance", settings.cell)))
    celery.conf.update(
        _SETTINGS,
        task_default_queue=queue,
        broker_transport_options=_REDIS if is_redis else {},
        beat_schedule=BEAT_SCHEDULE,
    )
    database = Database(
        settings.database_url,
        pool_size=_POOL_SIZE,
        application_name="lariba-worker",
        # As for the pool of reading (factory.py): jobs read events. A plan for all values of a prepared statement would
        # lock every day of them.
        prepares=False,
        session={"jit": "off"},
    )
    register(celery, database, settings)
    setup_logging.connect(lambda **_: logs.configure(settings.log_level, settings.cell), weak=False)
    return celery
