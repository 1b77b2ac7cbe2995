"""The entry points: `rsgi` for granian, `app` for WSGI servers and `flask --app wsgi …`, `celery` for worker and beat.

A process loads only what it serves: Celery takes 10 MB of a web server's memory, and Flask 20 MB of a worker's.
A missing setting or a schema behind this code ends the start with one line and a non-zero status. A database that is
away does not: the process starts, answers 503, and serves as soon as the database is back.
"""

try:
    from app.granian.signals import end_at_once_while_starting
except ModuleNotFoundError as error:  # app/granian can be deleted (app/granian/README.md)
    if error.name != "app.granian":
        raise
else:
    end_at_once_while_starting()  # the imports below take most of a start

import gc
import os
import sys
from typing import NoReturn, cast

import click

from app.config import Settings, SettingsError, variable_of
from app.monitoring.shared_metrics import share
from app.telemetry import logs

# Taken from the command line, and not from the names that a server looks up: some read the module's variables only.
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

from app.database.encoding import EncodingError, require_utf8
from app.database.migrate import SchemaBehindError, require_head
from app.database.row_security import RowSecurityMissingError, require_row_security
from app.rate_limits.redis_servers import RedisClusterError, require_no_cluster

if is_celery and settings:
    from app.database.engine import Database
    from app.worker import create_celery

    celery = create_celery(settings)
    engine = Database(settings.database_url, pool_size=1, application_name="lariba-worker").engine
elif settings:
    from app.context import EXTENSION
    from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
    from app.factory import create_app
    from app.ingest.fast_path import FastPath
    from app.ingest.services import EXTENSION as INGEST

    app = create_app(settings)
    engine = app.extensions[EXTENSION].database.engine
    try:
        from app.granian.adapter import GranianAdapter
        from app.granian.plain_wsgi import PlainWsgi
    except ModuleNotFoundError as error:  # it was deleted, or granian is not installed
        if error.name not in ("app.granian", "granian", "granian.rsgi"):
            raise
        if "granian" in sys.modules:
            sys.exit("lariba: granian needs app/granian, which is missing: start wsgi:app under another WSGI server")
    else:
        fast_path = cast(FastPath, app.wsgi_app)
        app.wsgi_app = PlainWsgi(fast_path)  # type: ignore[method-assign]
        if settings.granian_adapter == "on":
            rsgi = GranianAdapter(fast_path, app.extensions[INGEST], app.extensions[SHARED_ANSWERS])
else:
    from app.factory import create_app_without_settings

    app = create_app_without_settings(unset)

if settings and not is_operator:
    try:
        require_utf8(engine)
        require_head(engine)
        if settings.allow_rls_bypass == "off":
            require_row_security(engine)
        if is_celery:
            require_no_cluster(variable_of("broker_url"), settings.broker_url)
        else:
            require_no_cluster(variable_of("redis_url"), settings.redis_url)
    except (EncodingError, SchemaBehindError, RowSecurityMissingError, RedisClusterError) as error:
        sys.exit(f"lariba: {error}")


def __getattr__(name: str) -> NoReturn:
    """A server asks for an entry point that is not there: end its start with one line if the setting is the reason."""
    if name == "rsgi" and settings and settings.granian_adapter == "off":
        sys.exit(f"lariba: {variable_of('granian_adapter')} is off: start wsgi:app, with `granian --interface wsgi`")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# What is loaded now stays for good. Otherwise the collector would traverse it every few seconds under load, and all
# requests of the process would stop for 50 ms (docs/performance.md).
gc.collect()
gc.freeze()
