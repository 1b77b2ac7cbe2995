"""The people of the tests: the owner of a workspace, and a stranger with one of his own."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from app.context import Context
from app.database.engine import TenantScope
from app.identifiers import new_public_id, random_text
from app.models import Source, SourceKey


@dataclass(frozen=True, kw_only=True, slots=True)
class Tenant:
    """A workspace with one of everything."""

    workspace_row: int
    workspace_id: str
    project_row: int
    project_id: str
    environment_id: str
    source_row: int
    source_id: str
    key_row: int
    key_id: str
    key: str
    token_id: str
    token: str

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


# One statement for the thousands that a run of the tests makes.
_TENANT: Final = text("""
    WITH workspace AS (
        INSERT INTO workspaces (public_id, name) VALUES (:workspace_id, :name) RETURNING id
    ), project AS (
        INSERT INTO projects (public_id, name, workspace_id) SELECT :project_id, 'shop', id FROM workspace
        RETURNING id, workspace_id
    ), environment AS (
        INSERT INTO environments (public_id, name, workspace_id, project_id)
        SELECT :environment_id, 'production', workspace_id, id FROM project RETURNING id, workspace_id, project_id
    ), source AS (
        INSERT INTO sources (public_id, name, type, workspace_id, project_id, environment_id)
        SELECT :source_id, 'checkout', 'backend', workspace_id, project_id, id FROM environment
        RETURNING id, workspace_id, project_id
    ), token AS (
        INSERT INTO management_tokens (public_id, workspace_id, label, secret_hash, secret_digest)
        SELECT :token_id, id, 'first', :token_hash, :token_digest FROM workspace
    ), source_key AS (
        INSERT INTO source_keys (public_id, workspace_id, project_id, source_id, secret_hash, secret_digest)
        SELECT :key_id, workspace_id, project_id, id, :key_hash, :key_digest FROM source RETURNING id
    )
    SELECT workspace.id AS workspace_row, project.id AS project_row, source.id AS source_row, source_key.id AS key_row
    FROM workspace, project, source, source_key
""")


def insert_at_once(session: Session, values: dict[str, Any]) -> dict[str, Any]:
    """Write the rows of a tenant; returns the numbers of four of them."""
    return dict(session.execute(_TENANT, values).one()._asdict())


def make_tenant(
    context: Context, insert: Callable[[Session, dict[str, Any]], dict[str, Any]] = insert_at_once
) -> Tenant:
    """A new workspace, written straight into the tables."""
    token, key = context.credentials.mint("mt"), context.credentials.mint("sk")
    ids: dict[str, Any] = {
        "workspace_id": new_public_id("ws"),
        "project_id": new_public_id("prj"),
        "environment_id": new_public_id("env"),
        "source_id": new_public_id("src"),
        "key_id": f"key_{key.key_id}",
        "token_id": f"tok_{token.key_id}",
    }
    minted = {
        "name": random_text(8),
        "token_hash": token.secret_hash,
        "token_digest": token.secret_digest,
        "key_hash": key.secret_hash,
        "key_digest": key.secret_digest,
    }
    with context.database.transaction(TenantScope.ALL) as session:
        inner = insert(session, ids | minted)
    return Tenant(**ids, **inner, key=key.text, token=token.text)


def issue_key(context: Context, source: Source, *, expires_at: datetime | None = None) -> tuple[int, str, str]:
    """A further key of `source`: (row, public id, plain text)."""
    minted = context.credentials.mint("sk")
    with context.database.transaction(TenantScope.ALL) as session:
        row = SourceKey(
            public_id=f"key_{minted.key_id}",
            workspace_id=source.workspace_id,
            project_id=source.project_id,
            source_id=source.id,
            secret_hash=minted.secret_hash,
            secret_digest=minted.secret_digest,
            expires_at=expires_at,
        )
        session.add(row)
        session.flush()
    return row.id, row.public_id, minted.text


def source_of(context: Context, tenant: Tenant) -> Source:
    with context.database.transaction(TenantScope.ALL) as session:
        return session.scalars(Source.within(tenant.workspace_row).where(Source.id == tenant.source_row)).one()


def limit_key(context: Context, tenant: Tenant, events_per_second: int) -> None:
    """As its operators may; this process knows of it at once."""
    statement = "UPDATE source_keys SET events_per_second = :limit WHERE id = :id"
    execute(context, statement, limit=events_per_second, id=tenant.key_row)
    context.rate_limiter.reload_overrides()


def execute(context: Context, statement: str, **parameters: object) -> None:
    """Change the database behind the product's back."""
    with context.database.transaction(TenantScope.ALL) as session:
        session.execute(text(statement), parameters)


def rows(context: Context, statement: str, **parameters: object) -> list[Row[Any]]:
    with context.database.transaction(TenantScope.ALL) as session:
        return list(session.execute(text(statement), parameters).all())


def events_of(context: Context, tenant: Tenant) -> list[Row[Any]]:
    """What is stored for the tenant's source, oldest first."""
    return rows(
        context,
        "SELECT event_id, event_uid, event_type, severity, occurred_at, received_at, workspace_id, source_key_id,"
        " payload::text AS payload_text FROM events WHERE project_id = :project AND source_id = :source"
        " ORDER BY received_at, event_uid",
        project=tenant.project_row,
        source=tenant.source_row,
    )
