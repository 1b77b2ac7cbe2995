"""Celery's app for a laptop: its worker, started with `--pool threads`, has beat on one more thread.

Worker, two children and beat would be four processes of 60 MB each. Processes are no part of what they promise: a run
that is killed is repeated because of what PostgreSQL knows of it (app/maintenance/scheduler.py).
"""

import os
import threading
from signal import SIGTERM
from typing import Any

import structlog
from celery import bootsteps
from celery.beat import Service

from wsgi import celery

_log = structlog.get_logger()
# A stop waits for at most this long.
_LOOP_SECONDS = 1


class _Beat(threading.Thread):
    """Sends ticks until it is stopped. If it fails, it ends the process, which the supervisor starts again."""

    def __init__(self, app: Any) -> None:
        super().__init__(name="beat", daemon=True)
        self._service = Service(app, max_interval=_LOOP_SECONDS, scheduler_cls=app.conf.beat_scheduler)
        self._is_stopping = False

    def run(self) -> None:
        try:
            self._service.start()
        except Exception:  # noqa: BLE001 - any error must be logged
            _log.exception("beat_failed")
        if not self._is_stopping:
            os.kill(os.getpid(), SIGTERM)

    def stop(self) -> None:
        self._is_stopping = True
        self._service.stop(wait=True)


class _BeatInside(bootsteps.StartStopStep):
    def create(self, worker: Any) -> _Beat:  # type: ignore[override]
        return _Beat(worker.app)


celery.steps["worker"].add(_BeatInside)
