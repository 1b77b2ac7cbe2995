"""The two entry points: `app` for any WSGI server, `celery` for worker and beat.

A missing setting or a schema behind this code ends the start with one line and a non-zero status; a database that is
away does not: the process starts, says 503 and serves as soon as the database is back.
"""

from app.stop_signals import end_at_once_while_starting, hear_while_waiting

end_at_once_while_starting()  # the imports below take most of a start

import gc
import os
import sys

import click
from flask.cli import FlaskGroup

from app import logs
from app.config import Settings, SettingsError
from app.monitoring.shared_metrics import share


def _is_operator_command() -> bool:
    """Whether this process is `flask --app wsgi …`: an operator must be able to migrate a schema that is behind.

    `flask run` is a web server like any other.
    """
    command = click.get_current_context(silent=True)
    return command is not None and isinstance(command.find_root().command, FlaskGroup) and command.info_name != "run"


try:
    settings = Settings.from_environment(os.environ)
    if settings.metrics_dir and not _is_operator_command():
        logs.configure(settings.log_level)
        share(settings.metrics_dir, os.environ)  # before the imports below make the metrics
except SettingsError as error:
    sys.exit(f"lariba: {error}")

from app import deferred_answers
from app.context import EXTENSION
from app.factory import create_app
from app.schema import SchemaBehindError, WallMissingError, require_head, require_walls
from app.worker import create_celery

try:
    app = create_app(settings)
    if not _is_operator_command():
        require_head(app.extensions[EXTENSION].database.engine)
        if settings.allow_rls_bypass == "off":
            require_walls(app.extensions[EXTENSION].database.engine)
except (SchemaBehindError, WallMissingError) as error:
    sys.exit(f"lariba: {error}")

if deferred_answers.install():
    hear_while_waiting()
celery = create_celery(settings)

# What is loaded now stays for good. Left to the collector, it would be looked through every few seconds under load,
# and all requests of the process would stand still for 50 ms (docs/performance.md).
gc.collect()
gc.freeze()
