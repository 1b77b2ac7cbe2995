"""Makes the sources and keys of a load, through the product's own functions."""

from collections.abc import Hashable
from pathlib import Path

import psycopg
from sqlalchemy.orm import Session

from app.config import Settings
from app.credentials.format import Kind
from app.credentials.verification import Credentials, Minted
from app.database.engine import Database, TenantScope
from app.identifiers import new_public_id, random_text
from app.management.keys.domain import NewKey, add_key
from app.management.projects.domain import NewProject, add_project
from app.management.sources.domain import NewSource, add_source
from app.management.workspace.domain import add_workspace
from app.models import Environment, SourceType
from bench.installation import Installation

_ENVIRONMENT = "production"
_NO_LIMIT = 10_000_000


class OneSecret(Credentials):
    """Mints keys with one common secret, so that 10,000 keys take one argon2 run instead of 200 s.

    The product has the same work: each key is another text with another row and another digest.
    """

    _model: Minted | None = None

    def mint(self, kind: Kind, workspace: Hashable = None) -> Minted:
        """As Credentials.mint()."""
        if self._model is None:
            self._model = super().mint(kind, workspace)
        parsed = self.parse(self._model.text, kind)
        if parsed is None:  # pragma: no cover - it was minted some lines ago
            raise ValueError(kind)
        return self.assemble(kind, random_text(len(self._model.key_id)), parsed.secret, self._model.secret_hash)


def make_senders(product: Installation, folder: Path, *, sources: int, keys: int, workspaces: int) -> tuple[Path, Path]:
    """Files of `sources` senders (one key each) and of `keys` further keys, spread over the same sources."""
    variables = {**product.variables, "LARIBA_BROKER_URL": "memory://", "LARIBA_SECRET_KEY": product.secret_key()}
    settings = Settings.from_environment(variables)
    database = Database(settings.database_url, pool_size=1, application_name="lariba-bench")
    credentials = OneSecret(settings.secret_key, argon2_runs_max=settings.argon2_runs_max)
    first: list[str] = []
    further: list[str] = []
    further_keys = iter(_shares(keys, sources))
    try:
        for share in _shares(sources, workspaces):
            with database.transaction(TenantScope.ALL, deadline_seconds=300) as session:
                issued = fill_workspace(session, credentials, [1 + next(further_keys) for _ in range(share)])
            for source_id, plain_texts in issued:
                first.append(f"{plain_texts[0]} {source_id}")
                further += [f"{key} {source_id}" for key in plain_texts[1:]]
    finally:
        database.engine.dispose()
    lift_limits(product)
    return _write(folder / "sources.txt", first), _write(folder / "keys.txt", further)


def demo_sender(product: Installation, folder: Path) -> Path:
    """A file of one sender: the demo's."""
    lift_limits(product)
    key, source = product.variables["LARIBA_SOURCE_KEY"], product.variables["LARIBA_SOURCE_ID"]
    return _write(folder / "demo.txt", [f"{key} {source}"])


def lift_limits(product: Installation) -> None:
    """Lift the rate limits of workspaces and of the demo's key, which sends alone; other keys keep theirs.

    Processes read the change within seconds, during the warm-up.
    """
    query = "SELECT attrelid::regclass::text FROM pg_attribute WHERE attname = 'events_per_second' AND attnum > 0"
    demo = "WHERE source_id = (SELECT id FROM sources WHERE public_id = %s)"
    with psycopg.connect(product.admin_database_url) as connection:
        limited = {row[0] for row in connection.execute(query)}
        if "workspaces" in limited:
            connection.execute("UPDATE workspaces SET events_per_second = %s", [_NO_LIMIT])
        if "source_keys" in limited:
            update = f"UPDATE source_keys SET events_per_second = %s {demo}".encode()
            connection.execute(update, [_NO_LIMIT, product.variables["LARIBA_SOURCE_ID"]])


def fill_workspace(session: Session, credentials: Credentials, keys: list[int]) -> list[tuple[str, list[str]]]:
    """A workspace with a source for each of `keys`, each with so many keys: (public id, plain texts)."""
    workspace, operator = add_workspace(session, "Bench")
    project, _ = add_project(session, operator, NewProject(name="Bench"))
    query = Environment.within(workspace.id).where(
        Environment.project_id == project.id, Environment.name == _ENVIRONMENT
    )
    environment = session.scalars(query).one()
    issued = []
    for n, how_many in enumerate(keys):
        new = NewSource(name=f"source {n}", type=SourceType.BACKEND)
        source = add_source(session, operator, environment, new, new_public_id("src"))
        plain_texts = [
            add_key(session, credentials.mint("sk"), operator, source, NewKey()).key for _ in range(how_many)
        ]
        issued.append((source.public_id, plain_texts))
    return issued


def _shares(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at the most."""
    return [(total + n) // parts for n in range(parts)]


def _write(path: Path, lines: list[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return path
