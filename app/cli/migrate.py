"""`flask --app wsgi migrate`: brings the schema to head."""

import click
from flask.cli import with_appcontext
from sqlalchemy import text

from app.cli.failures import one_line_failures
from app.context import current_context
from app.database import migrate as schema
from app.database.engine import TenantScope

_REVISION = text("SELECT version_num FROM alembic_version")


@click.command
@with_appcontext
@one_line_failures()
def migrate() -> None:
    """Bring the database's schema to head, as the owner."""
    context = current_context()
    schema.migrate(context.settings)
    with context.database.transaction(TenantScope.NONE) as session:
        click.echo(f"schema at {session.execute(_REVISION).scalar_one()}")
