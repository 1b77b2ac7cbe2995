"""`make run`: from an empty folder to a running product, step by step; each failure is one clear line."""

import contextlib
import os
import socket
import sys
from pathlib import Path

import psycopg
from alembic.util import CommandError
from sqlalchemy.exc import SQLAlchemyError

from app.config import PREFIX, Settings, SettingsError
from app.embedded import demo_env, product
from app.embedded.console import say
from app.embedded.demo import DemoCredentials, ensure_demo
from app.embedded.errors import EmbeddedError, StopRequestedError
from app.embedded.postgres import EmbeddedPostgres
from app.embedded.product import HOST, Product
from app.embedded.redis import EmbeddedRedis
from app.embedded.roles import APP_ROLE, DATABASE, OWNER_ROLE
from app.embedded.server import EmbeddedServer
from app.embedded.supervisor import Supervisor
from app.embedded.var_dir import VarDir
from app.embedded.welcome import welcome
from app.errors import Refusal
from app.schema import migrate

_DEFAULT_PORT = "8000"
_DEFAULT_VAR_DIR = "var"
_PORT_MAX = 65_535


def main() -> int:
    try:
        port = read_port(os.environ.get("PORT") or _DEFAULT_PORT)
        run(port, VarDir(Path(os.environ.get("VAR_DIR") or _DEFAULT_VAR_DIR)))
    except (StopRequestedError, KeyboardInterrupt):
        say("Stopped.")
    except (EmbeddedError, SettingsError, Refusal) as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except (psycopg.Error, SQLAlchemyError, CommandError) as error:
        return _failed(f"the database cannot be prepared: {str(error).splitlines()[0]}")
    return 0


def run(port: int, var_dir: VarDir) -> None:
    """Take the folder and the port, start the servers, prepare the data, start the product, watch it."""
    lock = var_dir.lock()
    check_port_is_free(port)
    logs = var_dir.folder("log")
    postgres = EmbeddedPostgres(var_dir.path / "postgres", log=logs / "postgres.log")
    redis = EmbeddedRedis(var_dir.path / "redis", log=logs / "redis.log")
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(postgres.tidy)
        afterwards.callback(redis.tidy)
        supervisor = afterwards.enter_context(Supervisor(inherited=(lock,)))
        start_server(supervisor, postgres)
        start_server(supervisor, redis)
        postgres.provision()
        variables = settings_variables(postgres, redis, var_dir)
        credentials = prepare_data(Settings.from_environment(variables), var_dir)
        url = f"http://{HOST}:{port}"
        demo_env.write(var_dir.demo_env, demo_variables(url, variables, credentials))
        start_product(supervisor, Product(settings=variables, logs=logs), port)
        say(welcome(url, credentials, var_dir.demo_env, logs))
        supervisor.watch()


def read_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _PORT_MAX):
        raise EmbeddedError(f"PORT must be a whole number from 1 to {_PORT_MAX}, not {text!r}")
    return int(text)


def check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        # As the web server does: connections of an earlier run that linger in TIME_WAIT keep nobody out.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            said = f"port {port} on {HOST} cannot be used ({error.strerror}): choose another one with PORT"
            raise EmbeddedError(said) from error


def start_server(supervisor: Supervisor, server: EmbeddedServer) -> None:
    server.prepare(supervisor.run)
    server.end_orphan()
    program = server.program()
    as_whom = f" as the system user {program.account.name}, as it refuses root" if program.account else ""
    say(f"Starting {program.name}{as_whom} …")
    supervisor.start(program)
    supervisor.wait_for(server.is_ready, program)


def settings_variables(postgres: EmbeddedPostgres, redis: EmbeddedRedis, var_dir: VarDir) -> dict[str, str]:
    return {
        "LARIBA_DATABASE_URL": postgres.url(APP_ROLE, DATABASE),
        "LARIBA_ADMIN_DATABASE_URL": postgres.url(OWNER_ROLE, DATABASE),
        "LARIBA_BROKER_URL": redis.broker_url,
        "LARIBA_REDIS_URL": redis.url,
        "LARIBA_SECRET_KEY": var_dir.secret_key(),
        "LARIBA_METRICS_DIR": str(var_dir.empty_folder("metrics")),
    }


def prepare_data(settings: Settings, var_dir: VarDir) -> DemoCredentials:
    migrate(settings)
    return ensure_demo(settings, demo_env.read(var_dir.demo_env))


def demo_variables(url: str, settings: dict[str, str], credentials: DemoCredentials) -> dict[str, str]:
    return {
        "LARIBA_URL": url,
        "LARIBA_SOURCE_ID": credentials.source_id,
        "LARIBA_SOURCE_KEY": credentials.source_key,
        "LARIBA_MANAGEMENT_TOKEN": credentials.management_token,
        "LARIBA_DATABASE_URL": settings["LARIBA_DATABASE_URL"],
        "LARIBA_ADMIN_DATABASE_URL": settings["LARIBA_ADMIN_DATABASE_URL"],
        "LARIBA_REDIS_URL": settings["LARIBA_REDIS_URL"],
    }


def start_product(supervisor: Supervisor, programs: Product, port: int) -> None:
    say("Starting worker, beat and web …")
    supervisor.start(programs.worker())
    supervisor.start(programs.beat())
    web = programs.web(port)
    supervisor.start(web)
    supervisor.wait_for(lambda: product.is_ready(port), web)


def _failed(reason: str) -> int:
    print(f"lariba: {reason}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    # The user's shell is neither to lead libpq astray (PGPORT, PGOPTIONS …), in this process or in a child, nor to
    # mix settings of its own into the run's.
    for variable in [name for name in os.environ if name.startswith(("PG", PREFIX))]:
        del os.environ[variable]
    sys.exit(main())
