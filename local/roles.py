"""The roles and the database that the product needs in its PostgreSQL; safe to repeat."""

import psycopg
from psycopg import Connection, sql

DATABASE = "lariba"
OWNER_ROLE = "lariba_owner"
APP_ROLE = "lariba_app"


def create_roles_and_database(superuser_url: str) -> None:
    """`superuser_url` is a URL of the superuser to an existing database."""
    with psycopg.connect(superuser_url, autocommit=True) as connection:
        for role in (OWNER_ROLE, APP_ROLE):
            _ensure_role(connection, role)
        _ensure_database(connection)
    with psycopg.connect(superuser_url, dbname=DATABASE, autocommit=True) as connection:
        connection.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")


def _ensure_role(connection: Connection, role: str) -> None:
    known = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = %s", [role]).fetchone()
    verb = sql.SQL("ALTER" if known else "CREATE")
    # In full and at every start: row level security does not bind a superuser or a role with BYPASSRLS.
    attributes = sql.SQL("LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS")
    connection.execute(sql.SQL("{} ROLE {} {}").format(verb, sql.Identifier(role), attributes))


def _ensure_database(connection: Connection) -> None:
    if connection.execute("SELECT datname FROM pg_database WHERE datname = %s", [DATABASE]).fetchone():
        return
    create = sql.SQL("CREATE DATABASE {} OWNER {} ENCODING 'UTF8'")
    connection.execute(create.format(sql.Identifier(DATABASE), sql.Identifier(OWNER_ROLE)))
