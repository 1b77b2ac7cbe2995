"""`flask --app wsgi workspace`: creates, lists, suspends, resumes and limits workspaces."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from typing import Final

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy import text

from app.cells.moving.move import Move
from app.cells.operations import CellState, emptiest, owner_of, read_state
from app.cli.cells import EXTENSION, UNREADABLE, known_cells, named
from app.cli.failures import first_line, one_line_failures
from app.cli.tokens import show_token
from app.config import Settings
from app.context import current_context
from app.credentials.verification import Credentials
from app.database.engine import Database
from app.management.workspace import domain as workspaces
from app.models import WorkspaceStatus
from app.rate_limits import EVENTS_PER_SECOND_MAX

_NAMESAKES_MAX: Final = 3
_HOME: Final = text("SELECT home FROM workspaces WHERE public_id = :public_id")
# Of rows that were left by earlier moves: nginx follows one 421, and no second one.
_FOLLOW: Final = text("UPDATE workspaces SET home = :home WHERE public_id = :public_id AND home <> :home")

workspace = AppGroup("workspace", help="Create, list, suspend, resume and limit workspaces.")


@workspace.command("create")
@click.argument("name")
@click.option(
    "--cell", "cell_name", help="In which of several cells; without this in the emptiest that takes new ones."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@one_line_failures()
def create(name: str, cell_name: str | None, *, as_json: bool) -> None:
    """Create a workspace and its first management token, which is shown this once."""
    with _home(cell_name) as (database, credentials, cell):
        new, issued = workspaces.create_workspace(database, credentials, name)
        others = workspaces.namesakes(database, new)
    shown = {"cell": cell} if cell else {}
    shown |= {"workspace_id": new.id, "token_id": issued.id, "management_token": issued.token}
    show_token(shown, as_json=as_json)
    if others:
        click.echo(
            f"Note: {len(others)} more of this name: {', '.join(others[:_NAMESAKES_MAX])}. If one of them was meant,"
            f" suspend the new one (flask --app wsgi workspace suspend {new.id}) and issue a token for that one.",
            err=True,
        )


@workspace.command("list")
@one_line_failures()
def list_all() -> None:
    """List all workspaces: id, status or the other cell that it lives in, time of creation, name."""
    for each in workspaces.list_workspaces(current_context().database):
        status = f"in {each.cell}" if each.cell else each.status
        click.echo(f"{each.id}\t{status}\t{each.created_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}\t{each.name}")


@workspace.command("suspend")
@click.argument("workspace_id")
@one_line_failures()
def suspend(workspace_id: str) -> None:
    """Stop a workspace: once this returns, nothing is stored for it. Its management API goes on."""
    _set_status(workspace_id, WorkspaceStatus.SUSPENDED)


@workspace.command("resume")
@click.argument("workspace_id")
@one_line_failures()
def resume(workspace_id: str) -> None:
    """Let a suspended workspace ingest again."""
    _set_status(workspace_id, WorkspaceStatus.ACTIVE)


@workspace.command("limit")
@click.argument("workspace_id")
@click.option("--events-per-second", type=click.IntRange(1, EVENTS_PER_SECOND_MAX), help="For all its keys together.")
@click.option("--default", "is_default", is_flag=True, help="What LARIBA_WORKSPACE_EVENTS_PER_SECOND says.")
@one_line_failures()
def limit(workspace_id: str, *, events_per_second: int | None, is_default: bool) -> None:
    """Limit what a workspace may send, within seconds on every process; with --default, lift its own limit."""
    if is_default is (events_per_second is not None):
        raise click.UsageError("Give either --events-per-second or --default.")
    changed = workspaces.set_workspace_limit(current_context().database, workspace_id, events_per_second)
    rate = changed.events_per_second
    click.echo(f"{changed.id} may send {f'{rate} events per second' if rate else 'what the default says'}")


@workspace.command("move")
@click.argument("workspace_id")
@click.option("--to", "to_name", required=True, help="The cell in which it is to live.")
@click.option("--take-back", is_flag=True, help="End a move that has not come to its end: it stays where it is.")
@one_line_failures()
def move(workspace_id: str, to_name: str, *, take_back: bool) -> None:
    """Move a workspace to another cell while it goes on; it waits for some seconds at the end.

    Safe to be cut off anywhere: run it again. Keys and tokens stay what they are.
    """
    target = named(to_name)
    one = Move(_cell_of(workspace_id, target), target, workspace_id, click.echo)
    if take_back:
        one.take_back()
        click.echo(f"{workspace_id} stays where it is")
        return
    moved = one.run()
    _tell_others(workspace_id, to_name)
    click.echo(f"{workspace_id} lives in {to_name}: {moved.rows} rows copied, it waited {moved.frozen_seconds:.2f} s")


def _cell_of(workspace_id: str, target: Settings) -> Settings:
    """The cell that it is to leave, or has left last. Raises ClickException."""
    homes: dict[str, Settings] = {}
    for each in known_cells():
        if each.cell == target.cell:
            continue
        with owner_of(each) as connection:
            found = connection.execute(_HOME, {"public_id": workspace_id}).one_or_none()
        if found is not None:
            homes[found.home or each.cell] = each
            if found.home is None:
                return each
    if target.cell in homes:
        return homes[target.cell]
    raise click.ClickException(f"No other cell has a workspace {workspace_id} that could move to {target.cell}.")


def _tell_others(workspace_id: str, home: str) -> None:
    """The cells that it left before say where it lives now."""
    for each in known_cells():
        if each.cell != home:
            with owner_of(each) as connection:
                connection.execute(_FOLLOW, {"public_id": workspace_id, "home": home})


@contextmanager
def _home(cell_name: str | None) -> Iterator[tuple[Database, Credentials, str]]:
    """Where a new workspace goes: the database and the credentials of that cell, and its name."""
    cells: tuple[Settings, ...] = current_app.extensions[EXTENSION]
    if len(cells) <= 1:
        context = current_context()
        if cell_name is not None:
            named(cell_name)
        yield context.database, context.credentials, context.settings.cell
        return
    settings = named(cell_name or emptiest(list(_states_of(cells))).name)
    read_state(settings)  # or the workspace could be made in a database that is another cell's
    database = Database(settings.database_url, pool_size=1, application_name="lariba-shell")
    try:
        yield database, Credentials(settings.secret_key, argon2_runs_max=1, cell=settings.cell), settings.cell
    finally:
        database.engine.dispose()


def _states_of(cells: tuple[Settings, ...]) -> Iterator[CellState]:
    """Of those that can be read: no other takes a workspace."""
    for each in cells:
        try:
            yield read_state(each)
        except UNREADABLE as error:
            click.echo(f"Note: {each.cell} cannot be read ({first_line(error)}).", err=True)


def _set_status(workspace_id: str, status: WorkspaceStatus) -> None:
    changed = workspaces.set_workspace_status(current_context().database, workspace_id, status)
    click.echo(f"{changed.id} is {changed.status}")
