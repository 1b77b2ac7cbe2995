"""Ends with status 0 if maintenance goes on, else with 1 and a line that says what is known: `python -m deploy.canary`.

The canary is a task without work. That it ran says that beat rings, the broker carries and a worker works: all that
a ping of the worker does not say. It takes half a second of CPU, so twice a minute is often enough.
"""

import os
import sys
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings, SettingsError
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable

# It is due every ten seconds. While all places of a worker are taken it waits, and a run is killed after 75 seconds;
# those that may take longer take one place together (app/maintenance/schedule.py).
AGE_SECONDS_MAX: Final = 90.0
_AGE: Final = text("SELECT extract(epoch FROM now() - succeeded_at) FROM maintenance_tasks WHERE name = 'canary'")


def complaint(settings: Settings) -> str | None:
    """What is wrong, in one line; None if the canary ran a moment ago."""
    database = Database(settings.database_url, pool_size=1, application_name="lariba-canary")
    try:
        with database.transaction(TenantScope.ALL, deadline_seconds=5) as session:
            age = session.execute(_AGE).scalar()
    except (StorageUnavailable, SQLAlchemyError):
        return "the database does not answer, or holds no schema"
    finally:
        database.engine.dispose()
    if age is None:
        return "no worker has answered yet"
    return f"the last canary ran {age:.0f} s ago" if age > AGE_SECONDS_MAX else None


def main() -> int:
    try:
        found = complaint(Settings.from_environment(os.environ))
    except SettingsError as error:
        found = str(error)
    if found:
        print(f"lariba: {found}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
