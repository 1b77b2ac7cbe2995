"""The operator's shell: `flask --app wsgi …`."""

from flask import Flask


def register(app: Flask) -> None:
    """Hang the commands on `app`."""
