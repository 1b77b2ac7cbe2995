"""`make run`: from an empty folder to a running product; each failure is one line."""

import contextlib
import os
import socket
import sys
from pathlib import Path

import psycopg

from app.config import PREFIX
from local import product
from local.console import say
from local.errors import EmbeddedError, StopRequestedError
from local.postgres import EmbeddedPostgres
from local.product import HOST, Product
from local.redis import EmbeddedRedis
from local.roles import APP_ROLE, DATABASE, OWNER_ROLE
from local.server import EmbeddedServer
from local.supervisor import Supervisor
from local.var_dir import VarDir
from local.welcome import COUNTED_MAX, welcome

_DEFAULT_PORT = "8000"
_DEFAULT_VAR_DIR = "var"
_PORT_MAX = 65_535
_COUNT = "SELECT count(*) FROM (SELECT 1 FROM events LIMIT %s) AS counted"


def main() -> int:
    try:
        port = read_port(os.environ.get("PORT") or _DEFAULT_PORT)
        run(port, VarDir(Path(os.environ.get("VAR_DIR") or _DEFAULT_VAR_DIR)))
    except (StopRequestedError, KeyboardInterrupt):
        say("Stopped.")
    except EmbeddedError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    except psycopg.Error as error:
        return _failed(f"the database does not answer: {str(error).splitlines()[0]}")
    return 0


def run(port: int, var_dir: VarDir) -> None:
    """Take the folder and the port, start the servers, prepare the data, start the product, watch it."""
    lock = var_dir.lock()
    check_port_is_free(port)
    secret_key = var_dir.secret_key()
    logs = var_dir.folder("log")
    postgres = EmbeddedPostgres(var_dir.path / "postgres", log=logs / "postgres.log")
    redis = EmbeddedRedis(var_dir.path / "redis", log=logs / "redis.log")
    with contextlib.ExitStack() as afterwards:
        afterwards.callback(postgres.tidy)
        afterwards.callback(redis.tidy)
        supervisor = afterwards.enter_context(Supervisor(inherited=(lock,)))
        start_server(supervisor, postgres)
        start_server(supervisor, redis)
        programs = Product(settings=settings_variables(postgres, redis, var_dir, secret_key), logs=logs)
        supervisor.run(programs.prepare(f"http://{HOST}:{port}", postgres.superuser_url, var_dir.demo_env))
        start_product(supervisor, programs, port)
        say(welcome(var_dir.demo_env, logs, count_events(postgres)))
        supervisor.watch()


def read_port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 < int(text) <= _PORT_MAX):
        raise EmbeddedError(f"PORT must be a whole number from 1 to {_PORT_MAX}, not {text!r}")
    return int(text)


def check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        # As the web server does: connections of an earlier run in TIME_WAIT do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            said = f"port {port} on {HOST} cannot be used ({error.strerror}): choose another one with PORT"
            raise EmbeddedError(said) from error


def start_server(supervisor: Supervisor, server: EmbeddedServer) -> None:
    server.prepare(supervisor.run)
    program = server.program()
    as_whom = f" as the system user {program.account.name}, as it refuses root" if program.account else ""
    say(f"Starting {program.name}{as_whom} …")
    supervisor.start(program)
    supervisor.wait_for(server.is_ready, program)


def settings_variables(
    postgres: EmbeddedPostgres, redis: EmbeddedRedis, var_dir: VarDir, secret_key: str
) -> dict[str, str]:
    return {
        "LARIBA_DATABASE_URL": postgres.url(APP_ROLE, DATABASE),
        "LARIBA_ADMIN_DATABASE_URL": postgres.url(OWNER_ROLE, DATABASE),
        "LARIBA_BROKER_URL": redis.broker_url,
        "LARIBA_REDIS_URL": redis.url,
        "LARIBA_SECRET_KEY": secret_key,
        "LARIBA_DOWNLOAD_DIR": str(var_dir.folder("downloads")),
        "LARIBA_METRICS_DIR": str(var_dir.empty_folder("metrics")),
    }


def start_product(supervisor: Supervisor, programs: Product, port: int) -> None:
    say("Starting web and worker …")
    web = programs.web(port)
    supervisor.start(web)
    supervisor.wait_for(lambda: product.is_ready(port), web)
    # After the web server is ready: on two cores, starting both at once would delay it.
    supervisor.start(programs.worker())


def count_events(postgres: EmbeddedPostgres) -> int:
    """As the superuser, whom row level security does not bind; at most COUNTED_MAX + 1."""
    with psycopg.connect(postgres.superuser_url, dbname=DATABASE) as connection:
        return int(connection.execute(_COUNT, [COUNTED_MAX + 1]).fetchall()[0][0])


def _failed(reason: str) -> int:
    print(f"lariba: {reason}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    # Variables of the user's shell must neither redirect libpq (PGPORT, PGOPTIONS …), here or in a child, nor add
    # settings to the run's.
    for variable in [name for name in os.environ if name.startswith(("PG", PREFIX))]:
        del os.environ[variable]
    sys.exit(main())
