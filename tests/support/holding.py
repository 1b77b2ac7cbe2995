"""Holds the runs of tasks where their work is done and not yet recorded, for as long as a test likes (ten seconds)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from app.config import Settings
from app.database.conninfo import conninfo_of
from tests.support.servers import ENDED

Root = psycopg.Connection[Any]
"""A superuser's connection, which row security does not bind."""

_PREPARE = """
    CREATE TABLE test_hold AS SELECT false AS is_held;
    CREATE FUNCTION wait_while_held() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
        BEGIN
            WHILE (SELECT is_held FROM test_hold) LOOP PERFORM pg_sleep(0.01); END LOOP;
            RETURN NEW;
        END $$;
    CREATE TRIGGER hold BEFORE UPDATE ON maintenance_tasks FOR EACH ROW
        WHEN (NEW.started_at = OLD.started_at AND NEW.succeeded_at IS DISTINCT FROM OLD.succeeded_at)
        EXECUTE FUNCTION wait_while_held();
"""
_HOLD = "UPDATE test_hold SET is_held = %s"
_HELD = "FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"


def root_of(server_url: str, settings: Settings) -> Root:
    """The server's superuser in the database of `settings`."""
    name = conninfo_of(settings.database_url)["dbname"]
    return psycopg.connect(**(conninfo_of(server_url) | {"dbname": name}), autocommit=True)


def prepare(root: Root) -> None:
    """Once for a database."""
    root.execute(_PREPARE)


@contextmanager
def holding(root: Root) -> Iterator[None]:
    root.execute(_HOLD, (True,))
    try:
        yield
    finally:
        root.execute(_HOLD, (False,))


def is_held(root: Root) -> bool:
    """Whether a run waits."""
    return root.execute(f"SELECT {_HELD}").fetchone() is not None


def end_orphans(root: Root) -> None:
    """PostgreSQL would notice that a held run's process is gone only when it is let go."""
    root.execute(f"SELECT {ENDED} {_HELD}")
