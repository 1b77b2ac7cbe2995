"""The roof: puts the web application together. Imported by wsgi.py and tests only."""

from flask import Flask

from app import api, commands, logs, problems, request_log
from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials import Credentials
from app.database import Database
from app.ingest.acceptance import Counter
from app.ingest.committer import Committer
from app.ingest.routes import COUNTER


def create_app(settings: Settings, *, credentials: Credentials | None = None) -> Flask:
    """The WSGI application for `settings`; opens no connection yet. `credentials` is for tests (cheap argon2)."""
    logs.configure(settings.log_level)
    app = Flask("lariba", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.request_bytes_max
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.extensions[EXTENSION] = Context(
        settings=settings,
        database=Database(
            settings.database_url,
            pool_size=settings.database_pool_size,
            lock_timeout_seconds=settings.idempotency_wait_seconds,
            application_name="lariba-web",
        ),
        credentials=credentials or Credentials(settings.secret_key, argon2_runs_max=settings.argon2_runs_max),
    )
    house: Context = app.extensions[EXTENSION]
    app.extensions[COUNTER] = Counter(settings, house.database, house.credentials, Committer(house.database, settings))
    request_log.register(app)
    problems.register(app)
    api.register(app)
    commands.register(app)
    return app
