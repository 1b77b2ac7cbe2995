"""Two cells of one installation, each with a database of its own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from argon2 import PasswordHasher, profiles
from flask import Flask

from app.cells.operations import introduce
from app.config import Settings
from app.context import EXTENSION, Context
from app.credentials.verification import Credentials
from app.database.migrate import migrate
from app.factory import create_app
from tests.support.databases import SECRET_KEY, close, copied_database
from tests.support.people import Tenant, make_tenant


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell, and the application that serves it."""

    settings: Settings
    app: Flask

    @property
    def name(self) -> str:
        return self.settings.cell

    @property
    def context(self) -> Context:
        context: Context = self.app.extensions[EXTENSION]
        return context


@contextmanager
def cells(server_url: str, migrated: Settings, *names: str) -> Iterator[list[Cell]]:
    """Cells that know of each other, each a copy of an empty installation that has got its name."""
    with ExitStack() as stack:
        made = [stack.enter_context(_cell(server_url, migrated, name)) for name in names]
        introduce([each.settings for each in made])
        yield made


def tenant_with_letters(cell: Cell, letters: str) -> Tenant:
    """Lives in `cell`, whatever its key and token say."""
    return make_tenant(replace(cell.context, credentials=minting(letters)))


def minting(letters: str) -> Credentials:
    cheapest = PasswordHasher.from_parameters(profiles.CHEAPEST)
    credentials = Credentials((SECRET_KEY,), argon2_runs_max=2, hasher=cheapest, cell=letters)
    credentials.preload(lambda: ())
    return credentials


@contextmanager
def _cell(server_url: str, migrated: Settings, name: str) -> Iterator[Cell]:
    with copied_database(server_url, migrated) as copy:
        settings = replace(copy, cells=(name,), database_pool_size=8)
        migrate(settings)
        cell = Cell(settings, create_app(settings, credentials=minting(name)))
        yield cell
        close(cell.context.database)
        close(cell.context.reading)
