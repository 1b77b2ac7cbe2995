"""Management tokens: the credentials of operators. None can issue a token with more rights than its own."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func
from sqlalchemy.orm import Session

from app.credentials.verification import Credentials, Minted
from app.database.advisory_locks import share_parents
from app.database.engine import Database
from app.errors import Fault, InsufficientScope, SchemaValidationFailed
from app.management.common.etags import Target
from app.management.common.hierarchy import live_projects, projects_within
from app.management.common.lifetimes import CredentialState, expires_within, is_in, state_at
from app.management.common.lookup import find, find_to_change
from app.management.common.minting import mint_for
from app.management.common.mutations import insert, moment, mutation, update
from app.management.common.operators import Operator, Role
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.token_validity import hold_validity_to_revoke
from app.management.common.views import View, view_of
from app.models import ManagementToken, Project

_SAY_WHICH: Final = (
    "Your management token is limited to some projects, so those that it issues must be too: name them in project_ids."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenView(View):
    """A token as its readers see it: never its secret."""

    label: str
    role: Role
    project_ids: tuple[str, ...] | None
    """None: the whole workspace."""
    state: CredentialState
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedToken(TokenView):
    """A token with its plain text, which is known when it is issued and never again."""

    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    role: Role
    label: str = ""
    project_ids: tuple[str, ...] | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFilter:
    """Which tokens a list shows; None shows all."""

    state: CredentialState | None = None
    expires_within_days: int | None = None


def visible_tokens(operator: Operator) -> Select[Any]:
    """The workspace's tokens; for a caller with some projects those that reach none but these.

    Each with the moment of the query, by which its state is judged.
    """
    tokens = ManagementToken.within(operator.workspace_id).add_columns(func.now())
    if operator.project_rows is None:
        return tokens
    return tokens.where(ManagementToken.project_ids.contained_by(sorted(operator.project_rows)))


def issue_token(database: Database, credentials: Credentials, operator: Operator, new: NewToken) -> IssuedToken:
    """A new token; the result alone carries its plain text.

    Raises InsufficientScope for a token that could do more than the caller's, and SchemaValidationFailed for projects
    that the caller does not see.
    """
    operator.require(new.role)
    if operator.project_rows is not None and new.project_ids is None:
        raise InsufficientScope(_SAY_WHICH, faults=(Fault("/project_ids", "Missing."),))
    if operator.expires_at is not None and (new.expires_at is None or new.expires_at > operator.expires_at):
        raise InsufficientScope("A token cannot outlive the one that issues it: give it an earlier expires_at.")

    def require_projects(session: Session) -> None:
        _project_rows(session, operator, new.project_ids)

    minted = mint_for(database, credentials, operator, "mt", require_projects)
    with mutation(database, operator) as session:
        return add_token(session, minted, operator, new)


def add_token(session: Session, minted: Minted, operator: Operator, new: NewToken) -> IssuedToken:
    """As issue_token(), within a transaction of the caller, for an operator who may issue it."""
    if new.project_ids is not None:
        share_parents(session, operator.workspace_id)  # the projects stay unarchived until the commit
    row = ManagementToken(
        public_id=f"tok_{minted.key_id}",
        workspace_id=operator.workspace_id,
        label=new.label,
        role=new.role,
        project_ids=_project_rows(session, operator, new.project_ids),
        expires_at=new.expires_at,
        secret_hash=minted.secret_hash,
        secret_digest=minted.secret_digest,
    )
    insert(session, operator, row, "management_token.issue", asdict(new))
    state = _state(row, row.created_at)
    return view_of(IssuedToken, row, role=new.role, state=state, project_ids=new.project_ids, token=minted.text)


def list_tokens(database: Database, operator: Operator, only: TokenFilter, request: PageRequest) -> Page[TokenView]:
    """The workspace's tokens that the caller sees and that pass the filter."""
    with database.transaction(operator.workspace_id) as session:
        names = _project_ids(session, operator)
        query = _filtered(operator, only)

        def view(row: ManagementToken, asked_at: datetime) -> TokenView:
            return _view(row, asked_at, names)

        return Listing(f"tokens {asdict(only)}", query, view).page(session, operator.workspace_id, request)


def read_token(database: Database, operator: Operator, token_id: str) -> TokenView:
    with database.transaction(operator.workspace_id) as session:
        row, asked_at = find(session, visible_tokens(operator), token_id)
        return _view(row, asked_at, _project_ids(session, operator))


def revoke_token(database: Database, operator: Operator, target: Target) -> TokenView:
    """End a token: after this has returned, it is refused; does nothing to a revoked one.

    Raises InsufficientScope for a token with a higher role than the caller's.
    """
    with mutation(database, operator) as session:
        # Before its lock is taken: a token of another workspace has one as well.
        find(session, visible_tokens(operator), target.public_id)
        hold_validity_to_revoke(session, operator, target.public_id)
        row, asked_at = find_to_change(session, operator, visible_tokens(operator), target)
        operator.require(Role(row.role))
        values = {"revoked_at": row.revoked_at or moment(session)}
        update(session, operator, row, "management_token.revoke", values)
        return _view(row, asked_at, _project_ids(session, operator))


def _filtered(operator: Operator, only: TokenFilter) -> Select[Any]:
    query = visible_tokens(operator)
    if only.state is not None:
        query = query.where(is_in(only.state, ManagementToken))
    if only.expires_within_days is not None:
        query = query.where(expires_within(only.expires_within_days, ManagementToken))
    return query


def _project_rows(session: Session, operator: Operator, public_ids: tuple[str, ...] | None) -> list[int] | None:
    if public_ids is None:
        return None
    wanted = live_projects(operator).where(Project.public_id.in_(public_ids))
    rows = {project.public_id: project.id for project in session.scalars(wanted)}
    faults = [
        Fault(f"/project_ids/{n}", "There is no such project.")
        for n, public_id in enumerate(public_ids)
        if public_id not in rows
    ]
    if faults:
        raise SchemaValidationFailed(faults=tuple(faults))
    return [rows[public_id] for public_id in public_ids]


def _project_ids(session: Session, operator: Operator) -> dict[int, str]:
    """The public ids of the workspace's projects by row, archived ones included: a token may outlive its projects."""
    columns = projects_within(operator).with_only_columns(Project.id, Project.public_id)
    return {row.id: row.public_id for row in session.execute(columns)}


def _view(row: ManagementToken, asked_at: datetime, project_ids: dict[int, str]) -> TokenView:
    limited_to = None if row.project_ids is None else tuple(project_ids[project] for project in row.project_ids)
    return view_of(TokenView, row, role=Role(row.role), state=_state(row, asked_at), project_ids=limited_to)


def _state(row: ManagementToken, asked_at: datetime) -> CredentialState:
    return state_at(asked_at, expires_at=row.expires_at, revoked_at=row.revoked_at)
