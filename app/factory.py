"""Puts the web application together. Imported by wsgi.py and tests only."""

from collections.abc import Sequence
from functools import partial
from typing import Final

import click
from flask import Flask, request
from werkzeug.exceptions import MethodNotAllowed

from app import api
from app.cells.directory import OtherCells
from app.cli import commands
from app.cli.cells import EXTENSION as CELLS
from app.concurrency.limit import ConcurrencyLimit
from app.config import Settings
from app.context import EXTENSION, Context, ManagementContext
from app.counting.flushed import FLUSH_SECONDS
from app.counting.reads import Reads
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.events.feed.followers import Followers
from app.events.feed.middleware import FollowMiddleware
from app.events.feed.shared_answers import EXTENSION as SHARED_ANSWERS
from app.events.feed.shared_answers import SharedAnswers
from app.events.standby import PROGRAM as STANDBY
from app.events.standby import Standby
from app.ingest.committer import Committer
from app.ingest.cors import Origins
from app.ingest.fast_path import FastPath
from app.ingest.refusals import Refusals
from app.ingest.services import EXTENSION as INGEST
from app.ingest.services import IngestServices
from app.monitoring import metrics_route
from app.rate_limits import MANAGEMENT_TOKEN, RateLimiter, Rates, RedisSync, namespace_of, read_overrides
from app.telemetry import logs, metrics
from app.telemetry.access_log import RequestLines, Sampling
from app.web import error_handlers, request_log
from app.web.request_body import discard_unread
from app.wire.body_reads import BodyReadLimiter, BodyReadLimits
from app.wire.http_rules import is_misspelt, refusal_of

# A request of the management API takes some milliseconds of a connection. One that has none after a second, or arrives
# while so many of its workspace wait, is refused.
_WAITING_PER_WORKSPACE: Final = 32
# Of one token. Few, or a thief with some tokens makes a long queue before the owner who revokes them.
_WAITING_URGENT: Final = 4
_WAIT_SECONDS: Final = 1.0
# A waiting batch keeps a thread of the server.
_BATCHES_WAITING_PER_WORKSPACE: Final = 64


def create_app(
    settings: Settings, *, credentials: Credentials | None = None, count_flush_seconds: float | None = FLUSH_SECONDS
) -> Flask:
    """The WSGI application for `settings`; opens no connection yet. `credentials` may have a cheaper argon2.

    With `count_flush_seconds` None, refusals and reads are written when their `flush` is called.
    """
    logs.configure(settings.log_level, settings.cell)
    app = Flask("lariba", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = settings.request_bytes_max
    app.json.sort_keys = False  # type: ignore[attr-defined]
    database = Database(
        settings.database_url,
        pool_size=settings.database_pool_size,
        lock_timeout_seconds=settings.idempotency_wait_seconds,
        application_name="lariba-web",
    )
    redis_sync = _redis_sync(settings)
    app.extensions[EXTENSION] = Context(
        settings=settings,
        database=database,
        credentials=credentials
        or Credentials(settings.secret_key, argon2_runs_max=settings.argon2_runs_max, cell=settings.cell),
        other_cells=OtherCells(database),
        rate_limiter=_rate_limiter(settings, database, redis_sync),
        management=_management(settings, database, redis_sync),
        reading=_reading(settings, settings.database_url, "lariba-reading"),
        standby=_standby(settings),
        body_reads=BodyReadLimiter(BodyReadLimits.of_threads(settings.server_threads)),
        reads=Reads(database, flush_seconds=count_flush_seconds),
    )
    sampling = Sampling(settings.log_accepted_one_in)
    lines = RequestLines(sampling, cell=settings.cell)
    app.extensions[CELLS] = (settings,)
    app.extensions[INGEST] = services = _ingest_services(app.extensions[EXTENSION], lines, count_flush_seconds)
    followers = Followers(settings)
    app.extensions[SHARED_ANSWERS] = SharedAnswers(app.extensions[EXTENSION], followers, lines)
    app.wsgi_app = FastPath(FollowMiddleware(app.wsgi_app, followers), services, lines)  # type: ignore[method-assign]
    request_log.register(app, settings.trusted_proxies, sampling, settings.cell)
    app.before_request(_keep_to_http)
    app.after_request(discard_unread)
    error_handlers.register(app)
    metrics_route.register(app)
    api.register(app)
    commands.register(app)
    return app


def serve_together(apps: Sequence[Flask]) -> None:
    """Set up what the applications of several cells share in one process: its log, and one page of metrics."""
    logs.configure(apps[0].extensions[EXTENSION].settings.log_level)
    metrics_route.register_together(apps)


def create_shell(reason: str, cells: tuple[Settings, ...] = ()) -> Flask:
    """For `flask --app wsgi --help`, and for what is about several cells: any other command ends with `reason`."""
    app = Flask("lariba", static_folder=None)
    app.extensions[EXTENSION] = click.ClickException(reason)
    app.extensions[CELLS] = cells
    commands.register(app)
    return app


def _keep_to_http() -> None:
    """Refuse what is no proper HTTP, before anything else is found wrong with it."""
    if (refusal := refusal_of(request.environ)) is not None:
        raise refusal
    if request.url_rule is not None and is_misspelt(request.environ):
        raise MethodNotAllowed(sorted(request.url_rule.methods or ()))


def _ingest_services(context: Context, lines: RequestLines, count_flush_seconds: float | None) -> IngestServices:
    return IngestServices(
        settings=context.settings,
        database=context.database,
        credentials=context.credentials,
        committer=Committer(context.database, context.settings, every_tick=partial(_every_tick, lines)),
        rate_limiter=context.rate_limiter,
        batch_slots=_batch_slots(context.settings.batches_at_once_max),
        body_reads=context.body_reads,
        other_cells=context.other_cells,
        origins=Origins(context.database),
        refusals=Refusals(context.database, flush_seconds=count_flush_seconds),
    )


def _batch_slots(at_once: int) -> ConcurrencyLimit:
    """A batch of 5 MiB takes some 30 MiB while it is read and stored."""
    return ConcurrencyLimit(
        at_once,
        at_once_per_client=max(1, at_once - 1),
        waiting_per_client=_BATCHES_WAITING_PER_WORKSPACE,
        wait_seconds=_WAIT_SECONDS,
        busy="Nothing was stored: too many batches are under way. Repeat the same batch later.",
    )


def _every_tick(lines: RequestLines) -> None:
    lines.flush()
    metrics.flush()


def _management(settings: Settings, database: Database, redis_sync: RedisSync | None) -> ManagementContext:
    third = max(1, settings.database_pool_size // 3)
    rates = Rates(
        key=settings.management_token_requests_per_second, workspace=settings.management_workspace_requests_per_second
    )
    return ManagementContext(
        database=database.share(
            _share_of_pool(third, at_once_each=(third + 1) // 2, waiting_each=_WAITING_PER_WORKSPACE)
        ),
        urgent=_share_of_pool(2, at_once_each=1, waiting_each=_WAITING_URGENT),
        rate_limiter=RateLimiter(rates, credential=MANAGEMENT_TOKEN, redis_sync=redis_sync),
    )


def _standby(settings: Settings) -> Standby | None:
    if not settings.read_database_url:
        return None
    database = _reading(settings, settings.read_database_url, STANDBY)
    primary, standby = (
        Database(url, pool_size=1, application_name="lariba-standby-watch")
        for url in (settings.database_url, settings.read_database_url)
    )
    return Standby(database, watched=(primary, standby), lag_seconds_max=settings.read_lag_seconds_max)


def _reading(settings: Settings, url: str, program: str) -> Database:
    """Queries over days of events: a pool of their own, so that they hold up neither ingest nor management."""
    size = settings.reading_pool_size
    database = Database(
        url,
        pool_size=size,
        application_name=program,
        # A plan that is made once for all values of a prepared statement would lock every day of events.
        prepares=False,
        # Compiling a query takes longer than most queries here. Parallel workers would take cores that are ingest's.
        # What is read lies in memory or on an SSD, where a page that is not the next one is no dearer. And the planner
        # does not know that tokens lie elsewhere: it would look into those of each segment rather than into the part of
        # their index that is not sorted yet, which takes a hundredth of the time.
        session={
            "jit": "off",
            "max_parallel_workers_per_gather": "0",
            "random_page_cost": "1.1",
            "enable_seqscan": "off",
        },
    )
    return database.share(
        ConcurrencyLimit(
            size,
            at_once_per_client=max(1, size - 1),
            waiting_per_client=_WAITING_PER_WORKSPACE,
            wait_seconds=_WAIT_SECONDS,
            busy="Too many queries are under way. Repeat the same one later.",
        )
    )


def _share_of_pool(at_once: int, *, at_once_each: int, waiting_each: int) -> ConcurrencyLimit:
    return ConcurrencyLimit(
        at_once,
        at_once_per_client=at_once_each,
        waiting_per_client=waiting_each,
        wait_seconds=_WAIT_SECONDS,
        busy="Nothing was changed: too much of the management API is under way. Repeat the same request later.",
    )


def _redis_sync(settings: Settings) -> RedisSync | None:
    return (
        RedisSync(settings.redis_url, namespace_of(settings.secret_key[0], settings.cell))
        if settings.redis_url
        else None
    )


def _rate_limiter(settings: Settings, database: Database, redis_sync: RedisSync | None) -> RateLimiter:
    return RateLimiter(
        Rates(key=settings.source_key_events_per_second, workspace=settings.workspace_events_per_second),
        redis_sync=redis_sync,
        read_overrides=partial(read_overrides, database),
    )
