"""Registers the commands in the application."""

from flask import Flask

from app.cli.cells import cell
from app.cli.keys import key
from app.cli.migrate import migrate
from app.cli.status import status
from app.cli.tokens import token
from app.cli.workspaces import workspace


def register(app: Flask) -> None:
    """Add every command to `flask --app wsgi`."""
    for command in (migrate, status, cell, workspace, token, key):
        app.cli.add_command(command)
