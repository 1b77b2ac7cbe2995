"""Whether row security keeps workspaces apart: for the app's role, on every table and partition.

The policies are made by migrations (migrations/versions/a005_row_security.py, a007) and read what
database.transaction() sets (engine.py). docs/decisions/0011 says what they protect against.
"""

from sqlalchemy import Connection, Engine, text

from app.database.engine import ask
from app.models import Base

# A policy binds a query by the table that it names, so each partition counts. Row security does not bind superusers,
# BYPASSRLS and the tables' owner, nor a member of these, who can SET ROLE; and a table without it binds no role.
_UNBOUND = text("""
    WITH RECURSIVE ours AS (
        SELECT oid, relowner FROM pg_class
        WHERE oid IN (SELECT to_regclass(name) FROM unnest(CAST(:tables AS text[])) AS name)
        UNION
        SELECT partition.oid, partition.relowner
        FROM ours JOIN pg_inherits ON inhparent = ours.oid JOIN pg_class AS partition ON partition.oid = inhrelid
    )
    SELECT EXISTS (
        SELECT 1 FROM pg_roles
        WHERE (rolsuper OR rolbypassrls OR oid IN (SELECT relowner FROM ours))
            AND pg_has_role(session_user, oid, 'MEMBER')
    ) AS by_role, (SELECT min(oid::regclass::text) FROM ours WHERE NOT row_security_active(oid)) AS open_table
""")
_WAY_OUT = "or set LARIBA_ALLOW_RLS_BYPASS=on"
_UNBOUND_ROLE = (
    "the role in LARIBA_DATABASE_URL is a superuser, has BYPASSRLS, or owns the tables (or is a member of such a role),"
    f" so row level security does not keep workspaces apart: use a role of its own (docs/operations.md), {_WAY_OUT}"
)
_OPEN_TABLE = (
    "the table {} has no row level security, so it does not keep workspaces apart: run `flask --app wsgi migrate`,"
    f" which puts policies on every partition (docs/operations.md), {_WAY_OUT}"
)
_POLICIES_FOR_OTHERS = text("""
    SELECT polrelid::regclass::text AS relation, polname FROM pg_policy JOIN pg_class ON pg_class.oid = polrelid
    WHERE polname IN ('within_workspace', 'all_workspaces') AND relnamespace = current_schema()::text::regnamespace
        AND polroles <> ARRAY(SELECT oid FROM pg_roles WHERE rolname = :role)
""")
# A partition that was attached by hand.
_OPEN_PARTITIONS = text("""
    SELECT copy_event_policies(inhrelid) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
    WHERE inhparent = to_regclass('events') AND NOT relrowsecurity
""")
_CAN_COPY = text("SELECT to_regprocedure('copy_event_policies(regclass)') IS NOT NULL")


class RowSecurityMissingError(Exception):
    """The app's role sees all workspaces at once; the message is one line that says what to do."""


def require_row_security(engine: Engine) -> None:
    """Raise RowSecurityMissingError if row security does not bind the engine's role. Passes if the database is away."""
    if missing := ask(engine, row_security_missing):
        raise RowSecurityMissingError(missing)


def row_security_missing(connection: Connection) -> str | None:
    """Why row security does not bind the connection's role, in one line; None if it does."""
    found = connection.execute(_UNBOUND, {"tables": list(Base.metadata.tables)}).one()
    if found.by_role:
        return _UNBOUND_ROLE
    return _OPEN_TABLE.format(found.open_table) if found.open_table else None


def bind_policies(connection: Connection, app_role: str) -> None:
    """Give the policies to the app's role alone, and to every partition; as the owner.

    A policy that reads a setting opens for every role that it is for, because every role can SET. Migrations make them
    for PUBLIC: they do not know the app's role.
    """
    quote = connection.dialect.identifier_preparer.quote
    for relation, policy in connection.execute(_POLICIES_FOR_OTHERS, {"role": app_role}).all():
        connection.execute(text(f"ALTER POLICY {quote(policy)} ON {relation} TO {quote(app_role)}"))
    if connection.execute(_CAN_COPY).scalar_one():  # else the schema is before a006
        connection.execute(_OPEN_PARTITIONS)
