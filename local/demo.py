"""The demo workspace, for which the example of the public API page works unchanged. Safe to repeat."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Select, func, or_, text
from sqlalchemy.orm import Session

from app.config import Settings
from app.credentials.verification import Credentials
from app.database.engine import Database, TenantScope
from app.errors import InvalidManagementToken, InvalidSourceKey
from app.ingest import authentication as ingest
from app.management.common import authentication as management
from app.management.common.etags import Target
from app.management.common.operators import Role, at_the_shell
from app.management.keys.domain import NewKey, add_key, revoke_key
from app.management.projects.domain import NewProject, add_project
from app.management.sources.domain import NewSource, add_source
from app.management.tokens.domain import NewToken, add_token, revoke_token
from app.management.workspace.domain import add_workspace
from app.models import Environment, ManagementToken, Project, Source, SourceKey, SourceType

SOURCE_ID: Final = "src_demo"
_ENVIRONMENT: Final = "production"
_LABEL: Final = "demo"
_DEADLINE_SECONDS: Final = 10.0
# Not within a workspace, because it finds the demo's: a public id is unique in the installation.
_WORKSPACE = text("SELECT workspace_id FROM sources WHERE public_id = :public_id")


@dataclass(frozen=True, kw_only=True, slots=True)
class DemoCredentials:
    """The credentials to send to the demo workspace and to manage it."""

    project_id: str
    source_id: str
    source_key: str = field(repr=False)
    management_token: str = field(repr=False)


def ensure_demo(settings: Settings, known: Mapping[str, str]) -> DemoCredentials:
    """The demo's credentials: those of an earlier run (`known`, from demo.env) as far as they are valid.

    1. Create the workspace, its project and its source, if the source is missing.
    2. Keep the source key, or revoke those of earlier runs and issue a new one.
    3. Keep or issue the token, in the same way.

    What an operator has disabled, renamed or archived stays so.
    """
    database = Database(settings.database_url, pool_size=2, application_name="lariba-demo")
    credentials = Credentials(settings.secret_key, argon2_runs_max=settings.argon2_runs_max)
    # Else its first key would start a thread that reads keys for later, and loses its connection below.
    credentials.preload(lambda: ())
    try:
        with database.transaction(TenantScope.ALL) as session:
            source = _find_source(session) or _create_source(session)
            project = session.scalars(Project.within(source.workspace_id).where(Project.id == source.project_id)).one()
        key, token = known.get("LARIBA_SOURCE_KEY", ""), known.get("LARIBA_MANAGEMENT_TOKEN", "")
        if not _opens_source(key, source, credentials, database):
            key = _issue_key(source, credentials, database)
        if not _opens_workspace(token, source, credentials, database):
            token = _issue_token(source, credentials, database)
    finally:
        database.engine.dispose()
    return DemoCredentials(project_id=project.public_id, source_id=SOURCE_ID, source_key=key, management_token=token)


def _find_source(session: Session) -> Source | None:
    workspace_id = session.execute(_WORKSPACE, {"public_id": SOURCE_ID}).scalar_one_or_none()
    if workspace_id is None:
        return None
    return session.scalars(Source.within(workspace_id).where(Source.public_id == SOURCE_ID)).one()


def _create_source(session: Session) -> Source:
    workspace, operator = add_workspace(session, "Demo")
    project, _ = add_project(session, operator, NewProject(name="Demo"))
    production = Environment.within(workspace.id).where(
        Environment.project_id == project.id, Environment.name == _ENVIRONMENT
    )
    new = NewSource(name="Demo", type=SourceType.BACKEND)
    return add_source(session, operator, session.scalars(production).one(), new, SOURCE_ID)


def _opens_source(key: str, source: Source, credentials: Credentials, database: Database) -> bool:
    try:
        identity = ingest.authenticate(key, credentials, database, time.monotonic() + _DEADLINE_SECONDS)
    except InvalidSourceKey:
        return False
    live = SourceKey.within(source.workspace_id).where(
        SourceKey.id == identity.row_id,
        SourceKey.source_id == source.id,
        SourceKey.revoked_at.is_(None),
        or_(SourceKey.expires_at.is_(None), SourceKey.expires_at > func.now()),
    )
    with database.transaction(source.workspace_id) as session:
        return session.scalars(live).one_or_none() is not None


def _opens_workspace(token: str, source: Source, credentials: Credentials, database: Database) -> bool:
    try:
        operator = management.authenticate(f"Bearer {token}", credentials, database)
    except InvalidManagementToken:
        return False
    return operator.workspace_id == source.workspace_id


def _issue_key(source: Source, credentials: Credentials, database: Database) -> str:
    lost = SourceKey.within(source.workspace_id).where(SourceKey.source_id == source.id, SourceKey.label == _LABEL)
    for public_id in _live(lost, SourceKey, source, database):
        revoke_key(database, at_the_shell(source.workspace_id), Target(public_id))
    minted = credentials.mint("sk")
    with database.transaction(source.workspace_id) as session:
        operator = at_the_shell(source.workspace_id)
        return add_key(session, minted, operator, source, NewKey(label=_LABEL)).key


def _issue_token(source: Source, credentials: Credentials, database: Database) -> str:
    lost = ManagementToken.within(source.workspace_id).where(ManagementToken.label == _LABEL)
    for public_id in _live(lost, ManagementToken, source, database):
        revoke_token(database, at_the_shell(source.workspace_id), Target(public_id))
    minted = credentials.mint("mt")
    with database.transaction(source.workspace_id) as session:
        operator = at_the_shell(source.workspace_id)
        return add_token(session, minted, operator, NewToken(role=Role.OWNER, label=_LABEL)).token


def _live(
    query: Select[Any], model: type[SourceKey | ManagementToken], source: Source, database: Database
) -> list[str]:
    """The public ids of those that are not revoked."""
    with database.transaction(source.workspace_id) as session:
        return [row.public_id for row in session.scalars(query.where(model.revoked_at.is_(None)))]
