"""Workspaces: all of them for the operator of the installation, from the shell; its own one for a token."""

from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.audit.entries import Change, record
from app.credentials.verification import Credentials
from app.database.advisory_locks import exclude_workspace
from app.database.engine import Database, TenantScope
from app.errors import NotFound, PreconditionFailed
from app.identifiers import new_public_id
from app.management.common.etags import Condition, Facts, etag_of
from app.management.common.idempotency import changing
from app.management.common.lookup import is_public_id
from app.management.common.mutations import ABSENT, Absent, mentioned, update
from app.management.common.names import read_label, read_name
from app.management.common.operators import Operator, Role, at_the_shell
from app.management.tokens.domain import IssuedToken, NewToken, add_token
from app.models import Workspace, WorkspaceStatus

_NOT_FOUND = "There is no workspace with this id."


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceFacts(Facts):
    """A workspace as its readers see it."""

    name: str
    status: WorkspaceStatus
    events_per_second: int | None
    key_events_per_second: int | None
    retention_days: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceChange:
    """What its own operators can change of one; None for the installation's default."""

    name: str | Absent = ABSENT
    retention_days: int | Absent | None = ABSENT
    key_events_per_second: int | Absent | None = ABSENT


def create_workspace(database: Database, credentials: Credentials, name: str) -> tuple[WorkspaceFacts, IssuedToken]:
    """A new workspace and its first management token. Raises ValueError for a name that cannot be one."""
    minted = credentials.mint("mt")
    with database.transaction(TenantScope.ALL) as session:
        workspace, operator = add_workspace(session, name)
        token = add_token(session, minted, operator, NewToken(role=Role.OWNER, label="first"))
        return _facts(workspace), token


def add_workspace(session: Session, name: str) -> tuple[Workspace, Operator]:
    """As create_workspace(), as a part of something larger; without a token, with who acts on it."""
    workspace = Workspace(public_id=new_public_id("ws"), name=read_name(name))
    session.add(workspace)
    session.flush()  # gives the id that the audit entry needs
    operator = at_the_shell(workspace.id)
    after = {"name": workspace.name}
    change = Change(action="workspace.create", object_id=workspace.public_id, project_row=None, after=after)
    record(session, operator.author, change)
    return workspace, operator


def namesakes(database: Database, workspace: WorkspaceFacts) -> list[str]:
    """The ids of other workspaces with the same name. A name is for people; what tells workspaces apart is the id."""
    others = select(Workspace.public_id).where(Workspace.name == workspace.name, Workspace.public_id != workspace.id)
    with database.transaction(TenantScope.ALL) as session:
        return list(session.scalars(others.order_by(Workspace.created_at, Workspace.id)))


def list_workspaces(database: Database) -> list[WorkspaceFacts]:
    """All workspaces, the oldest first."""
    with database.transaction(TenantScope.ALL) as session:
        in_order = select(Workspace).order_by(Workspace.created_at, Workspace.id)
        return [_facts(workspace) for workspace in session.scalars(in_order)]


def set_workspace_status(database: Database, workspace_id: str, status: WorkspaceStatus) -> WorkspaceFacts:
    """Suspend or resume; safe to repeat. Raises NotFound.

    After a suspension has returned, nothing more is stored for the workspace.
    """
    verb = "suspend" if status is WorkspaceStatus.SUSPENDED else "resume"
    with database.transaction(TenantScope.ALL) as session:
        workspace = _find(session, workspace_id)
        session.refresh(workspace, with_for_update={"key_share": True})
        if status is WorkspaceStatus.SUSPENDED:
            exclude_workspace(session, workspace.id)
        update(session, at_the_shell(workspace.id), workspace, f"workspace.{verb}", {"status": status})
        return _facts(workspace)


def set_workspace_limit(database: Database, workspace_id: str, events_per_second: int | None) -> WorkspaceFacts:
    """What all keys of a workspace may send together; None is the installation's default. Raises NotFound.

    Every process obeys within a few seconds. Safe to repeat.
    """
    with database.transaction(TenantScope.ALL) as session:
        workspace = _find(session, workspace_id)
        session.refresh(workspace, with_for_update={"key_share": True})
        values = {"events_per_second": events_per_second}
        update(session, at_the_shell(workspace.id), workspace, "workspace.limit", values)
        return _facts(workspace)


def read_workspace(database: Database, operator: Operator) -> WorkspaceFacts:
    """The caller's own workspace."""
    with database.transaction(operator.workspace_id) as session:
        return _facts(session.scalars(_own(operator)).one())


def change_workspace(
    database: Database, operator: Operator, condition: Condition, change: WorkspaceChange
) -> WorkspaceFacts:
    """Change what `change` mentions of the caller's own workspace. Raises PreconditionFailed."""
    with changing(database, operator) as session:
        workspace = session.scalars(_own(operator).with_for_update(key_share=True)).one()
        if not condition.is_met_by(etag_of(workspace.public_id, workspace.updated_at)):
            raise PreconditionFailed
        update(session, operator, workspace, "workspace.update", mentioned(change))
        return _facts(workspace)


def issue_workspace_token(
    database: Database, credentials: Credentials, workspace_id: str, label: str, role: Role
) -> IssuedToken:
    """A further token of a workspace. Raises NotFound, and ValueError for a label that cannot be one."""
    new = NewToken(role=role, label=read_label(label))
    minted = credentials.mint("mt")
    with database.transaction(TenantScope.ALL) as session:
        workspace = _find(session, workspace_id)
        return add_token(session, minted, at_the_shell(workspace.id), new)


def _own(operator: Operator) -> Select[Workspace]:
    return select(Workspace).where(Workspace.id == operator.workspace_id)


def _find(session: Session, public_id: str) -> Workspace:
    # The shell stands above all workspaces: the one kind of query that does not begin inside one.
    query = select(Workspace).where(Workspace.public_id == public_id)
    workspace = session.scalars(query).one_or_none() if is_public_id(public_id) else None
    if workspace is None:
        raise NotFound(_NOT_FOUND)
    return workspace


def _facts(workspace: Workspace) -> WorkspaceFacts:
    return WorkspaceFacts(
        id=workspace.public_id,
        name=workspace.name,
        status=WorkspaceStatus(workspace.status),
        events_per_second=workspace.events_per_second,
        key_events_per_second=workspace.key_events_per_second,
        retention_days=workspace.retention_days,
        created_at=workspace.created_at,
        updated_at=workspace.updated_at,
    )
