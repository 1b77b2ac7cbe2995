"""Workspaces, as the operator of the installation sees them: all of them, from the shell."""

from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.credentials import Credentials
from app.database import Database
from app.errors import NotFound
from app.identifiers import new_public_id
from app.locks import exclude_workspace
from app.management.audit import record
from app.management.lookup import is_public_id
from app.management.names import read_label, read_name
from app.management.operators import Operator, at_the_shell
from app.management.revisions import Facts
from app.management.tokens import IssuedToken, issue_token
from app.models import Workspace, WorkspaceStatus

_NOT_FOUND = "There is no workspace with this id."


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkspaceFacts(Facts):
    """A workspace as the operator of the installation sees it."""

    name: str
    status: WorkspaceStatus
    events_per_second: int | None


def create_workspace(database: Database, credentials: Credentials, name: str) -> tuple[WorkspaceFacts, IssuedToken]:
    """A new workspace and its first management token. Raises ValueError for a name that cannot be one."""
    with database.transaction() as session:
        workspace, operator = add_workspace(session, name)
        token = issue_token(session, credentials, operator, label="first")
        return _facts(workspace), token


def add_workspace(session: Session, name: str) -> tuple[Workspace, Operator]:
    """As create_workspace(), as a part of something larger; without a token, with who acts on it."""
    workspace = Workspace(public_id=new_public_id("ws"), name=read_name(name))
    session.add(workspace)
    session.flush()  # gives the id that the audit entry needs
    operator = at_the_shell(workspace.id)
    record(session, operator, "workspace.create", workspace.public_id, {"name": workspace.name})
    return workspace, operator


def list_workspaces(database: Database) -> list[WorkspaceFacts]:
    """All workspaces, the oldest first."""
    with database.transaction() as session:
        return [_facts(workspace) for workspace in session.scalars(select(Workspace).order_by(Workspace.id))]


def set_workspace_status(database: Database, workspace_id: str, status: WorkspaceStatus) -> WorkspaceFacts:
    """Suspend or resume; safe to repeat. Raises NotFound.

    After a suspension has returned, nothing more is stored for the workspace.
    """
    with database.transaction() as session:
        workspace = _find(session, workspace_id)
        if status is WorkspaceStatus.SUSPENDED:
            exclude_workspace(session, workspace.id)
        session.refresh(workspace, with_for_update={"key_share": True})
        if workspace.status != status:
            workspace.status = status
            session.flush()  # moves updated_at, which the answer tells
            session.refresh(workspace)
            verb = "suspend" if status is WorkspaceStatus.SUSPENDED else "resume"
            record(
                session,
                at_the_shell(workspace.id),
                f"workspace.{verb}",
                workspace.public_id,
                {"status": status},
            )
        return _facts(workspace)


def set_workspace_limit(database: Database, workspace_id: str, events_per_second: int | None) -> WorkspaceFacts:
    """What all keys of a workspace may send together; None is the installation's default. Raises NotFound.

    Every process obeys within a few seconds. Safe to repeat.
    """
    with database.transaction() as session:
        workspace = _find(session, workspace_id)
        session.refresh(workspace, with_for_update={"key_share": True})
        if workspace.events_per_second != events_per_second:
            workspace.events_per_second = events_per_second
            session.flush()  # moves updated_at, which the answer tells
            session.refresh(workspace)
            changes = {"events_per_second": events_per_second}
            record(session, at_the_shell(workspace.id), "workspace.limit", workspace.public_id, changes)
        return _facts(workspace)


def issue_workspace_token(database: Database, credentials: Credentials, workspace_id: str, label: str) -> IssuedToken:
    """A further token of a workspace. Raises NotFound, and ValueError for a label that cannot be one."""
    with database.transaction() as session:
        workspace = _find(session, workspace_id)
        return issue_token(session, credentials, at_the_shell(workspace.id), label=read_label(label))


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
        created_at=workspace.created_at,
        updated_at=workspace.updated_at,
    )
