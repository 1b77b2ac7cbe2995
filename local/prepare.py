"""Makes a run's roles, tables and demo, and writes demo.env: a program of its own, which takes its memory along.

What it imports would otherwise stay with the supervisor for as long as the run lasts: 40 MB.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.config import PREFIX, Settings, SettingsError
from app.database.migrate import migrate
from app.errors import Refusal
from local import demo_env
from local.demo import ensure_demo
from local.roles import create_roles_and_database


def main(superuser_url: str, path: Path) -> int:
    variables = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    try:
        prepare(superuser_url, path, variables)
    except (SettingsError, Refusal, OSError) as error:
        return _failed(str(error))
    except (psycopg.Error, SQLAlchemyError, CommandError) as error:
        return _failed(f"the database cannot be prepared: {str(error).splitlines()[0]}")
    return 0


def prepare(superuser_url: str, path: Path, variables: Mapping[str, str]) -> None:
    """Write `variables` and the demo's credentials to `path`, when the database is ready for them."""
    create_roles_and_database(superuser_url)
    settings = Settings.from_environment(variables)
    migrate(settings)
    credentials = ensure_demo(settings, demo_env.read(path))
    demo = {
        "LARIBA_SOURCE_ID": credentials.source_id,
        "LARIBA_SOURCE_KEY": credentials.source_key,
        "LARIBA_MANAGEMENT_TOKEN": credentials.management_token,
    }
    demo_env.write(path, {**variables, **demo})


def _failed(reason: str) -> int:
    print(reason, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
