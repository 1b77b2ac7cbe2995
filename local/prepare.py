"""Creates the roles, tables and demo of a run, and writes demo.env.

It is a program of its own, because its imports would keep 40 MB in the supervisor for the whole run.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import psycopg
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.config import PREFIX, Settings, SettingsError
from app.database.migrate import UnknownSchemaError, migrate
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
    except UnknownSchemaError as error:
        return _failed(f"{error}; a new one is made once {path.parent} is removed")
    except (psycopg.Error, SQLAlchemyError, CommandError) as error:
        return _failed(f"the database cannot be prepared: {str(error).splitlines()[0]}")
    return 0


def prepare(superuser_url: str, path: Path, variables: Mapping[str, str]) -> None:
    """Prepare the database, and write `variables` and the demo's credentials to `path`."""
    create_roles_and_database(superuser_url)
    settings = Settings.from_environment(variables)
    migrate(settings)
    credentials = ensure_demo(settings, demo_env.read(path))
    demo = {
        "LARIBA_PROJECT_ID": credentials.project_id,
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
