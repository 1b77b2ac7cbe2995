"""`flask --app wsgi token`: issues and revokes management tokens."""

import json

import click
from flask.cli import AppGroup

from app.cli.failures import one_line_failures
from app.cli.revocation import revoke_any_token
from app.context import current_context
from app.management.common.operators import Role
from app.management.workspace import domain as workspaces

token = AppGroup("token", help="Issue and revoke management tokens.")


@token.command("issue")
@click.argument("workspace_id")
@click.option("--label", default="", help="What the token is for.")
@click.option("--role", type=click.Choice([role.value for role in Role]), default=Role.OWNER.value, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@one_line_failures()
def issue(workspace_id: str, label: str, role: str, *, as_json: bool) -> None:
    """Issue a further management token, which is shown this once."""
    context = current_context()
    issued = workspaces.issue_workspace_token(context.database, context.credentials, workspace_id, label, Role(role))
    show_token({"token_id": issued.id, "management_token": issued.token}, as_json=as_json)


@token.command("revoke")
@click.argument("token_id")
@one_line_failures()
def revoke_token(token_id: str) -> None:
    """Revoke a management token of any workspace: once this returns, it opens and changes nothing."""
    click.echo(f"{revoke_any_token(current_context().database, token_id).id} is revoked")


def show_token(values: dict[str, str], *, as_json: bool) -> None:
    """Print a new management token, the only time."""
    if as_json:
        click.echo(json.dumps(values))
        return
    for name, value in values.items():
        click.echo(f"{name.replace('_', ' '):16}  {value}")
    click.echo("The token is shown this once: keep it safe.", err=True)
