"""Management tokens: the credentials of operators. None can issue a token that may do more than itself."""

from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Select, func, or_
from sqlalchemy.orm import Session

from app.credentials.verification import Credentials, Minted
from app.database.advisory_locks import share_parents
from app.database.engine import Database
from app.errors import Fault, InsufficientScope, SchemaValidationFailed
from app.management.common.etags import Facts, Target
from app.management.common.idempotency import changing
from app.management.common.lifetimes import CredentialState, expires_within, is_in, state_at
from app.management.common.lookup import find, find_to_change
from app.management.common.minting import mint_for
from app.management.common.mutations import insert, moment, update
from app.management.common.operators import Operator, Role
from app.management.common.paging import Listing, Page, PageRequest
from app.management.common.token_validity import hold_standing_to_revoke
from app.management.projects.domain import live_projects
from app.models import ManagementToken, Project

_SAY_WHICH: Final = (
    "Your management token is limited to some projects, so those that it issues must be too: name them in project_ids."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFacts(Facts):
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
class IssuedToken(TokenFacts):
    """A token in the one moment in which its plain text is known."""

    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class NewToken:
    """What can be chosen for one."""

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

    Each with the moment of asking, by which its state is judged.
    """
    tokens = ManagementToken.within(operator.workspace_id).add_columns(func.now())
    if operator.project_rows is None:
        return tokens
    return tokens.where(ManagementToken.project_ids.contained_by(sorted(operator.project_rows)))


def issue_token(database: Database, credentials: Credentials, operator: Operator, new: NewToken) -> IssuedToken:
    """A new token; the answer carries its plain text, and nobody can ask for it again.

    Raises InsufficientScope for a token that could do more than the caller's, and SchemaValidationFailed for projects
    that the caller does not see.
    """
    operator.require(new.role)
    if operator.project_rows is not None and new.project_ids is None:
        raise InsufficientScope(_SAY_WHICH, faults=(Fault("/project_ids", "Missing."),))
    if operator.expires_at is not None and (new.expires_at is None or new.expires_at > operator.expires_at):
        raise InsufficientScope("A token cannot outlive the one that issues it: give it an earlier expires_at.")
    minted = mint_for(database, credentials, operator, "mt")
    with changing(database, operator) as session:
        return add_token(session, minted, operator, new)


def add_token(session: Session, minted: Minted, operator: Operator, new: NewToken) -> IssuedToken:
    """As issue_token(), as a part of something larger, for an operator who may issue it."""
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
    shown = {
        "label": new.label,
        "role": new.role,
        "project_ids": None if new.project_ids is None else list(new.project_ids),
        "expires_at": new.expires_at,
    }
    insert(session, operator, row, "management_token.issue", shown)
    return IssuedToken(**_columns(row, row.created_at), project_ids=new.project_ids, token=minted.text)


def list_tokens(database: Database, operator: Operator, only: TokenFilter, request: PageRequest) -> Page[TokenFacts]:
    """The workspace's tokens, as far as the caller sees them and the filter lets them through."""
    with database.transaction(operator.workspace_id) as session:
        names = _project_ids(session, operator)
        query = _filtered(operator, only)

        def show(row: ManagementToken, asked_at: datetime) -> TokenFacts:
            return _facts(row, asked_at, names)

        listing = Listing(ManagementToken, operator.workspace_id, f"tokens {asdict(only)}", query, show)
        return listing.page(session, request)


def read_token(database: Database, operator: Operator, token_id: str) -> TokenFacts:
    """One token."""
    with database.transaction(operator.workspace_id) as session:
        row, asked_at = find(session, visible_tokens(operator), ManagementToken, token_id)
        return _facts(row, asked_at, _project_ids(session, operator))


def revoke_token(database: Database, operator: Operator, target: Target) -> TokenFacts:
    """End a token: after this has returned, it opens nothing; does nothing to a revoked one.

    Raises InsufficientScope for a token with a higher role than the caller's.
    """
    with changing(database, operator) as session:
        # Before its lock is asked for, for a stranger's token has one as well.
        find(session, visible_tokens(operator), ManagementToken, target.public_id)
        hold_standing_to_revoke(session, operator, target.public_id)
        row, asked_at = find_to_change(session, operator, visible_tokens(operator), ManagementToken, target)
        operator.require(Role(row.role))
        values = {"revoked_at": row.revoked_at or moment(session)}
        update(session, operator, row, "management_token.revoke", values)
        return _facts(row, asked_at, _project_ids(session, operator))


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
    share_parents(session, operator.workspace_id)
    wanted = live_projects(operator).where(or_(*(Project.public_id == public_id for public_id in public_ids)))
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
    projects = Project.within(operator.workspace_id).where(operator.reaches(Project.id))
    columns = projects.with_only_columns(Project.id, Project.public_id)
    return {row.id: row.public_id for row in session.execute(columns)}


def _facts(row: ManagementToken, asked_at: datetime, project_ids: dict[int, str]) -> TokenFacts:
    limited_to = None if row.project_ids is None else tuple(project_ids[project] for project in row.project_ids)
    return TokenFacts(**_columns(row, asked_at), project_ids=limited_to)


def _columns(row: ManagementToken, asked_at: datetime) -> dict[str, Any]:
    return {
        "id": row.public_id,
        "label": row.label,
        "role": Role(row.role),
        "state": state_at(asked_at, expires_at=row.expires_at, revoked_at=row.revoked_at),
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }
