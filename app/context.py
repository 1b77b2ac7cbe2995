"""What a route may reach: one typed value that the factory hangs on the Flask app."""

from dataclasses import dataclass

from flask import current_app, g

from app.cells.directory import OtherCells
from app.concurrency.limit import ConcurrencyLimit
from app.config import Settings
from app.counting.reads import Reads
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.events.standby import Standby
from app.rate_limits import RateLimiter
from app.wire.body_reads import BodyReadLimiter

EXTENSION = "lariba"


@dataclass(frozen=True, slots=True)
class ManagementContext:
    """What the management API has of its own, so that it takes nothing from ingest, nor one workspace from another."""

    database: Database
    """A share of the pool."""
    urgent: ConcurrencyLimit
    """Bounds another share, for what takes a right away: what else a workspace does keeps it waiting for no connection.

    By token: a thief could ask for what is urgent all the time, too.
    """
    rate_limiter: RateLimiter


@dataclass(frozen=True, slots=True)
class Context:
    """The parts that live as long as the process."""

    settings: Settings
    database: Database
    credentials: Credentials
    other_cells: OtherCells
    rate_limiter: RateLimiter
    management: ManagementContext
    reading: Database
    """A pool of its own for reading events, which shares its connections out to workspaces."""
    body_reads: BodyReadLimiter
    reads: Reads
    """Who reads, and how much."""
    standby: Standby | None = None
    """Where events are searched, counted and exported instead, if there is one."""


def management_database() -> Database:
    """The share of the database that the guard has given this request of the management API."""
    database: Database = g.database
    return database


def reading_database() -> Database:
    """The database for requests that read events."""
    return current_context().reading


def reading_standby() -> Standby | None:
    """The standby for requests that search, count or export events."""
    return current_context().standby


def current_context() -> Context:
    """The context of the app that serves this request; raises what the factory has put there instead."""
    value = current_app.extensions[EXTENSION]
    if isinstance(value, Exception):
        raise value
    if not isinstance(value, Context):  # pragma: no cover - a wiring mistake, not a state
        raise TypeError(EXTENSION)
    return value
