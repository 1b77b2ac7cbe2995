"""`python -m deploy.canary`: exits with 0 if the canary ran lately, else with 1 and a line that says what is wrong.

The canary is a task without work. A run proves that beat sends, the broker carries and a worker consumes, which a ping
of the worker does not. The check takes half a second of CPU, so twice a minute is often enough.
"""

import os
import sys
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from app.config import Settings, SettingsError
from app.database.engine import Database, TenantScope
from app.errors import StorageUnavailable

# It is due every ten seconds. It waits while all processes of a worker are busy. A run is killed after 75 seconds; the
# tasks that may take longer share a lock, so they occupy one process (app/maintenance/schedule.py).
AGE_SECONDS_MAX: Final = 90.0
_AGE: Final = text("SELECT extract(epoch FROM now() - succeeded_at) FROM maintenance_tasks WHERE name = 'canary'")


def complaint(settings: Settings) -> str | None:
    """What is wrong, in one line; None if the canary ran lately."""
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
