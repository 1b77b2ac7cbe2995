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
from sqlalchemy import Engine

from app.config import Settings, SettingsError, variable_of
from app.monitoring.shared_metrics import share
from app.telemetry import logs

# Taken from the command line, and not from the names that a server looks up: some read the module's variables only.
_command = click.get_current_context(silent=True)
_program = _command.find_root().command.name if _command else ""
is_celery = _program == "celery"
# An operator must be able to migrate a schema that is behind. `flask run` is a web server like any other.
is_operator = _program == "flask" and _command is not None and _command.info_name != "run"

cells: tuple[Settings, ...] = ()
unset = ""
try:
    cells = Settings.of_cells(os.environ)
    if len(cells) > 1 and (is_celery or is_operator):
        unset = f"{variable_of('cells')} names several cells: name the one that this is for"
    if cells[0].metrics_dir and not is_operator:
        logs.configure(cells[0].log_level)
        share(cells[0].metrics_dir, os.environ)  # before the imports below make the metrics
except SettingsError as error:
    unset = str(error)
if unset and not is_operator:
    sys.exit(f"lariba: {unset}")

from app.database.cell import WrongCellError, require_cell
from app.database.encoding import EncodingError, require_utf8
from app.database.migrate import SchemaBehindError, require_head
from app.database.row_security import RowSecurityMissingError, require_row_security
from app.rate_limits.redis_servers import RedisClusterError, require_no_cluster

engines: dict[str, Engine] = {}
if is_celery:
    from app.database.engine import Database
    from app.worker import create_celery

    celery = create_celery(cells[0])
    database = Database(cells[0].database_url, pool_size=1, application_name="lariba-worker")
    engines[cells[0].cell] = database.engine
elif not unset:
    from flask import Flask

    from app.cells.serving import CellSwitch
    from app.context import EXTENSION
    from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
    from app.factory import create_app, serve_together
    from app.ingest.fast_path import FastPath
    from app.ingest.services import EXTENSION as INGEST

    apps = {settings.cell: create_app(settings) for settings in cells}
    engines = {name: each.extensions[EXTENSION].database.engine for name, each in apps.items()}
    try:
        from app.granian.adapter import GranianAdapter
        from app.granian.cells import CellAdapters
        from app.granian.plain_wsgi import PlainWsgi
    except ModuleNotFoundError as error:  # it was deleted, or granian is not installed
        if error.name not in ("app.granian", "granian", "granian.rsgi"):
            raise
        if "granian" in sys.modules:
            sys.exit("lariba: granian needs app/granian, which is missing: start wsgi:app under another WSGI server")
    else:
        adapters = {}
        for name, each in apps.items():
            fast_path = cast(FastPath, each.wsgi_app)
            each.wsgi_app = PlainWsgi(fast_path)  # type: ignore[method-assign]
            adapters[name] = GranianAdapter(fast_path, each.extensions[INGEST], each.extensions[SHARED_ANSWERS])
        if cells[0].granian_adapter == "on":
            rsgi = CellAdapters(adapters) if len(cells) > 1 else adapters[cells[0].cell]
    app: Flask | CellSwitch = CellSwitch(apps) if len(cells) > 1 else apps[cells[0].cell]
    if len(cells) > 1:
        serve_together(list(apps.values()))
else:
    from app.factory import create_shell

    app = create_shell(unset, cells)

if not is_operator:
    try:
        for settings in cells:
            engine = engines[settings.cell]
            require_utf8(engine)
            require_head(engine)
            if settings.allow_rls_bypass == "off":
                require_row_security(engine)
            require_cell(engine, settings.cell)
            if is_celery:
                require_no_cluster(variable_of("broker_url"), settings.broker_url)
            else:
                require_no_cluster(variable_of("redis_url"), settings.redis_url)
    except (EncodingError, SchemaBehindError, WrongCellError, RowSecurityMissingError, RedisClusterError) as error:
        sys.exit(f"lariba: {error}")


def __getattr__(name: str) -> NoReturn:
    """A server asks for an entry point that is not there: end its start with one line if the setting is the reason."""
    if name == "rsgi" and cells and cells[0].granian_adapter == "off":
        sys.exit(f"lariba: {variable_of('granian_adapter')} is off: start wsgi:app, with `granian --interface wsgi`")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# What is loaded now stays for good. Otherwise the collector would traverse it every few seconds under load, and all
# requests of the process would stop for 50 ms (docs/performance.md).
gc.collect()
gc.freeze()
