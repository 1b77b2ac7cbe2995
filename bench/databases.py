"""A migrated database on an embedded PostgreSQL, and a sender in it, for measurements without a web server."""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from app.context import Context
from app.credentials.verification import Identity
from app.database.engine import TenantScope
from app.database.migrate import migrate
from app.ingest.authentication import authenticate
from bench.senders import fill_workspace
from local.postgres import EmbeddedPostgres
from local.roles import APP_ROLE, DATABASE, OWNER_ROLE

SECRET_KEY = secrets.token_hex(32)
_AUTHENTICATION_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Sender:
    """A source with its key."""

    source_id: str
    key: str
    identity: Identity


@contextmanager
def migrated_database(folder: Path, *cells: str) -> Iterator[Settings]:
    """Fsync is on. The server's data lie in `folder`, and it stops after the block. `cells`: the name of its cell."""
    with EmbeddedPostgres(folder / "pg") as server:
        settings = Settings(
            database_url=server.url(APP_ROLE, DATABASE),
            admin_database_url=server.url(OWNER_ROLE, DATABASE),
            broker_url="memory://",
            secret_key=(SECRET_KEY,),
            log_level="WARNING",
            cells=cells,
        )
        migrate(settings)
        yield settings


def make_sender(context: Context) -> Sender:
    """A workspace with one source and one key, made by the product's own functions."""
    with context.database.transaction(TenantScope.ALL, deadline_seconds=60) as session:
        ((source_id, (key,)),) = fill_workspace(session, context.credentials, [1])
    deadline = time.monotonic() + _AUTHENTICATION_SECONDS
    return Sender(source_id, key, authenticate(key, context.credentials, context.database, deadline))
