"""The entry points: `rsgi` for granian, `app` for WSGI servers and `flask --app wsgi …`, `celery` for worker and beat.

A process loads only the one that it is for: Celery takes 10 MB of a web server's memory, and Flask 20 MB of a worker's.
A missing setting or a schema behind this code ends the start with one line and a non-zero status; a database that is
away does not: the process starts, says 503 and serves as soon as the database is back.
"""

from app.concurrency.stop_signals import end_at_once_while_starting

end_at_once_while_starting()  # the imports below take most of a start

import gc
import os
import sys
from typing import cast

import click

from app.config import Settings, SettingsError, variable_of
from app.monitoring.shared_metrics import share
from app.telemetry import logs

# Asked of the command line, and not of what a server will look for: some look into a module's variables only.
_command = click.get_current_context(silent=True)
_program = _command.find_root().command.name if _command else ""
is_celery = _program == "celery"
# An operator must be able to migrate a schema that is behind. `flask run` is a web server like any other.
is_operator = _program == "flask" and _command is not None and _command.info_name != "run"

settings, unset = None, ""
try:
    settings = Settings.from_environment(os.environ)
    if settings.metrics_dir and not is_operator:
        logs.configure(settings.log_level)
        share(settings.metrics_dir, os.environ)  # before the imports below make the metrics
except SettingsError as error:
    unset = str(error)
    if not is_operator:
        sys.exit(f"lariba: {unset}")

from app.database.schema import (
    EncodingError,
    SchemaBehindError,
    WallMissingError,
    require_head,
    require_utf8,
    require_walls,
)
from app.rate_limits.redis_servers import RedisClusterError, require_no_cluster

if is_celery and settings:
    from app.database.engine import Database
    from app.worker import create_celery

    celery = create_celery(settings)
    engine = Database(settings.database_url, pool_size=1, application_name="lariba-worker").engine
elif settings:
    from app.context import EXTENSION
    from app.factory import create_app
    from app.granian.adapter import GranianAdapter
    from app.ingest.fast_path import FastPath
    from app.ingest.services import EXTENSION as INGEST

    app = create_app(settings)
    rsgi = GranianAdapter(cast(FastPath, app.wsgi_app), app.extensions[INGEST])
    engine = app.extensions[EXTENSION].database.engine
else:
    from app.factory import create_app_without_settings

    app = create_app_without_settings(unset)

if settings and not is_operator:
    try:
        require_utf8(engine)
        require_head(engine)
        if settings.allow_rls_bypass == "off":
            require_walls(engine)
        if is_celery:
            require_no_cluster(variable_of("broker_url"), settings.broker_url)
        else:
            require_no_cluster(variable_of("redis_url"), settings.redis_url)
    except (EncodingError, SchemaBehindError, WallMissingError, RedisClusterError) as error:
        sys.exit(f"lariba: {error}")


# What is loaded now stays for good. Left to the collector, it would be looked through every few seconds under load,
# and all requests of the process would stand still for 50 ms (docs/performance.md).
gc.collect()
gc.freeze()
