"""`flask --app wsgi cell`: adds, lists, checks, drains and maps the cells that LARIBA_CELLS names."""

import click
from flask import current_app
from flask.cli import AppGroup
from sqlalchemy.exc import SQLAlchemyError

from app.cells.operations import CellState, drain, introduce, read_state
from app.cells.routing import FORMATS, read_exceptions
from app.cli.failures import first_line, one_line_failures
from app.config import Settings
from app.context import current_context
from app.database.cell import WrongCellError

EXTENSION = "lariba.cells"
"""Where the settings of all cells are that the shell knows."""
UNREADABLE = (SQLAlchemyError, WrongCellError)
"""What of one cell does not end what is about several."""
_MIB = 1024 * 1024

cell = AppGroup("cell", help="Add, list, check, drain and map cells: all that LARIBA_CELLS names.")


@cell.command("add")
@click.argument("name")
@one_line_failures()
def add(name: str) -> None:
    """Let all cells know of a new one, and it of them: then each names the others to a key that came to the wrong one.

    The new one must have been migrated. Safe to repeat.
    """
    introduce([named(name), *(each for each in known_cells() if each.cell != name)])
    click.echo(f"{name} is known to {', '.join(each.cell for each in known_cells())}")


@cell.command("list")
@one_line_failures()
def list_all() -> None:
    """List the cells: name, state, workspaces, size on disk. One that cannot be read does not hide the others."""
    for each in known_cells():
        try:
            click.echo(_line(read_state(each)))
        except UNREADABLE as error:
            click.echo(f"{each.cell}\tunreadable\t{first_line(error)}")


@cell.command("status")
@click.argument("name")
@one_line_failures()
def status(name: str) -> None:
    """Show one cell; ends with 1 if its database cannot be read."""
    click.echo(_line(read_state(named(name))))


@cell.command("drain")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Make new workspaces there again.")
@one_line_failures()
def drain_one(name: str, *, undo: bool) -> None:
    """Make no new workspace in a cell. Those that it has stay, and go on."""
    named(name)
    drain(known_cells(), name, is_draining=not undo)
    click.echo(f"{name} {'takes new workspaces again' if undo else 'takes no new workspace'}")


@cell.command("map")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="nginx", show_default=True)
@one_line_failures()
def print_map(form: str) -> None:
    """Print the map from keys and tokens to cells, for a proxy. The first cell gets what is of none.

    Nothing is printed if one of the cells cannot be read: keys that have moved there would be missing.
    """
    cells = known_cells()
    exceptions = read_exceptions(cells)
    click.echo(f"# Made by `flask --app wsgi cell map --format {form}`.")
    for line in FORMATS[form]([each.cell for each in cells], exceptions):
        click.echo(line)


def known_cells() -> tuple[Settings, ...]:
    """The settings of all cells that LARIBA_CELLS names. Raises ClickException without any, or for a wrong setting."""
    cells: tuple[Settings, ...] = current_app.extensions[EXTENSION]
    if not cells:
        current_context()  # which names the setting that is missing or wrong
    if not cells or not cells[0].cell:
        raise click.ClickException("LARIBA_CELLS names no cell: this installation has one, without a name")
    return cells


def named(name: str) -> Settings:
    """The settings of one of them. Raises ClickException."""
    for each in known_cells():
        if each.cell == name:
            return each
    raise click.ClickException(f"LARIBA_CELLS does not name {name}: it has {', '.join(c.cell for c in known_cells())}")


def _line(state: CellState) -> str:
    how = "draining" if state.is_draining else "open"
    return f"{state.name}\t{how}\t{state.workspaces} workspaces\t{state.bytes // _MIB} MiB"
