"""The people of the tests: the owner of a workspace, and a stranger with one of his own."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text

from app.context import Context
from app.database.engine import TenantScope
from app.identifiers import new_public_id, random_text
from app.models import Environment, ManagementToken, Project, Source, SourceKey, Workspace


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


def make_tenant(context: Context) -> Tenant:
    """A new workspace, written straight into the tables."""
    token = context.credentials.mint("mt")
    with context.database.transaction(TenantScope.ALL) as session:

        def add(row: Any) -> Any:
            session.add(row)
            session.flush()
            return row

        workspace = add(Workspace(public_id=new_public_id("ws"), name=random_text(8)))
        inside = {"workspace_id": workspace.id}
        project = add(Project(public_id=new_public_id("prj"), name="shop", **inside))
        inside["project_id"] = project.id
        environment = add(Environment(public_id=new_public_id("env"), name="production", **inside))
        inside["environment_id"] = environment.id
        source = add(Source(public_id=new_public_id("src"), name="checkout", type="backend", **inside))
        add(
            ManagementToken(
                public_id=f"tok_{token.key_id}",
                workspace_id=workspace.id,
                label="first",
                secret_hash=token.secret_hash,
                secret_digest=token.secret_digest,
            )
        )
    key_row, key_id, key = issue_key(context, source)
    return Tenant(
        workspace_row=workspace.id,
        workspace_id=workspace.public_id,
        project_row=project.id,
        project_id=project.public_id,
        environment_id=environment.public_id,
        source_row=source.id,
        source_id=source.public_id,
        key_row=key_row,
        key_id=key_id,
        key=key,
        token_id=f"tok_{token.key_id}",
        token=token.text,
    )


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
