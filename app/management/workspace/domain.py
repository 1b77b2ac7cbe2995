"""Workspaces: all of them for the operator's shell, and for a token the one that it belongs to."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from app.audit.entries import Mutation, record
from app.credentials.verification import Credentials
from app.database.advisory_locks import exclude_workspace
from app.database.engine import Database, TenantScope
from app.errors import NotFound, PreconditionFailed
from app.identifiers import new_public_id
from app.management.common.etags import Condition, etag_of
from app.management.common.lookup import is_public_id
from app.management.common.mutations import Change, mutation, update
from app.management.common.names import read_label, read_name
from app.management.common.operators import Operator, Role, at_the_shell
from app.management.common.token_validity import hold_residence
from app.management.common.views import View, view_of
from app.management.tokens.domain import IssuedToken, NewToken, add_token
from app.models import Workspace, WorkspaceStatus

_NOT_FOUND = "There is no workspace with this id."


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceView(View):
    name: str
    status: WorkspaceStatus
    events_per_second: int | None
    key_events_per_second: int | None
    retention_days: int | None
    cell: str | None = None
    """The cell that it lives in, if this is another one."""


def create_workspace(database: Database, credentials: Credentials, name: str) -> tuple[WorkspaceView, IssuedToken]:
    """A new workspace and its first management token. Raises ValueError for a name that read_name() refuses."""
    minted = credentials.mint("mt")
    with database.transaction(TenantScope.ALL) as session:
        workspace, operator = add_workspace(session, name)
        token = add_token(session, minted, operator, NewToken(role=Role.OWNER, label="first"))
        return _view(workspace), token


def add_workspace(session: Session, name: str) -> tuple[Workspace, Operator]:
    """As create_workspace(), within a transaction of the caller and without a token; with the shell's operator."""
    workspace = Workspace(public_id=new_public_id("ws"), name=read_name(name))
    session.add(workspace)
    session.flush()  # gives the id that the audit entry needs
    operator = at_the_shell(workspace.id)
    after = {"name": workspace.name}
    created = Mutation(action="workspace.create", object_id=workspace.public_id, project_row=None, after=after)
    record(session, operator.author, created)
    return workspace, operator


def namesakes(database: Database, workspace: WorkspaceView) -> list[str]:
    """The ids of other workspaces with the same name; names of workspaces are not unique."""
    others = select(Workspace.public_id).where(Workspace.name == workspace.name, Workspace.public_id != workspace.id)
    with database.transaction(TenantScope.ALL) as session:
        return list(session.scalars(others.order_by(Workspace.created_at, Workspace.id)))


def list_workspaces(database: Database) -> list[WorkspaceView]:
    """All workspaces, the oldest first."""
    with database.transaction(TenantScope.ALL) as session:
        in_order = select(Workspace).order_by(Workspace.created_at, Workspace.id)
        return [_view(workspace) for workspace in session.scalars(in_order)]


def set_workspace_status(database: Database, workspace_id: str, status: WorkspaceStatus) -> WorkspaceView:
    """Suspend or resume; safe to repeat. Raises NotFound.

    After a suspension has returned, nothing more is stored for the workspace.
    """
    verb = "suspend" if status is WorkspaceStatus.SUSPENDED else "resume"
    with _locked(database, workspace_id) as (session, workspace):
        if status is WorkspaceStatus.SUSPENDED:
            exclude_workspace(session, workspace.id)
        update(session, at_the_shell(workspace.id), workspace, f"workspace.{verb}", {"status": status})
        return _view(workspace)


def set_workspace_limit(database: Database, workspace_id: str, events_per_second: int | None) -> WorkspaceView:
    """What all keys of a workspace may send together; None is the installation's default. Raises NotFound.

    Every process obeys within a few seconds. Safe to repeat.
    """
    with _locked(database, workspace_id) as (session, workspace):
        values = {"events_per_second": events_per_second}
        update(session, at_the_shell(workspace.id), workspace, "workspace.limit", values)
        return _view(workspace)


def read_workspace(database: Database, operator: Operator) -> WorkspaceView:
    with database.transaction(operator.workspace_id) as session:
        return _view(session.scalars(_own(operator)).one())


def change_workspace(database: Database, operator: Operator, condition: Condition, change: Change) -> WorkspaceView:
    """Change what `change` mentions of the caller's own workspace. Raises PreconditionFailed."""
    with mutation(database, operator) as session:
        workspace = session.scalars(_own(operator).with_for_update(key_share=True)).one()
        if not condition.is_met_by(etag_of(workspace.public_id, workspace.updated_at)):
            raise PreconditionFailed
        update(session, operator, workspace, "workspace.update", change.values)
        return _view(workspace)


def issue_workspace_token(
    database: Database, credentials: Credentials, workspace_id: str, label: str, role: Role
) -> IssuedToken:
    """A further token of a workspace. Raises NotFound, and ValueError for a label that read_label() refuses."""
    new = NewToken(role=role, label=read_label(label))
    minted = credentials.mint("mt")
    with database.transaction(TenantScope.ALL) as session:
        workspace = _find(session, workspace_id)
        issued = add_token(session, minted, at_the_shell(workspace.id), new)
        hold_residence(session, workspace.id)
        return issued


def _own(operator: Operator) -> Select[Workspace]:
    return select(Workspace).where(Workspace.id == operator.workspace_id)


@contextmanager
def _locked(database: Database, workspace_id: str) -> Iterator[tuple[Session, Workspace]]:
    with database.transaction(TenantScope.ALL) as session:
        workspace = _find(session, workspace_id)
        session.refresh(workspace, with_for_update={"key_share": True})
        yield session, workspace
        hold_residence(session, workspace.id)


def _find(session: Session, public_id: str) -> Workspace:
    # The shell sees all workspaces, so this query does not begin inside one.
    query = select(Workspace).where(Workspace.public_id == public_id)
    workspace = session.scalars(query).one_or_none() if is_public_id(public_id) else None
    if workspace is None:
        raise NotFound(_NOT_FOUND)
    return workspace


def _view(workspace: Workspace) -> WorkspaceView:
    return view_of(WorkspaceView, workspace, status=WorkspaceStatus(workspace.status), cell=workspace.home)
