"""/v1/tokens: the management tokens themselves."""

from app.context import current_context, management_database
from app.errors import CredentialAlreadyShown, PreconditionFailed
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import target
from app.management.common.responses import Headers, created, shown
from app.management.common.schemas import PageQuerySchema
from app.management.tokens import domain as tokens
from app.management.tokens import schemas
from app.management.tokens.domain import IssuedToken, NewToken, TokenFilter, TokenView

blueprint = ManagementBlueprint("tokens", __name__, description="Credentials of operators")


@blueprint.operation("POST", "/v1/tokens", role=Role.ADMIN, refuses=[CredentialAlreadyShown], shown_by="read_token")
@blueprint.arguments(schemas.TokenCreateSchema, example={"label": "dashboard", "role": "auditor"})
@blueprint.response(201, schemas.IssuedTokenSchema)
def issue_token(operator: Operator, new: NewToken) -> tuple[IssuedToken, Headers]:
    """Issue a management token, which may do no more than the one that issues it. This answer alone shows it."""
    credentials = current_context().credentials
    token = tokens.issue_token(management_database(), credentials, operator, new)
    return created(token, ".read_token", token_id=token.id)


@blueprint.operation("GET", "/v1/tokens", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(schemas.TokenQuerySchema, location="query")
@blueprint.response(200, schemas.TokenPageSchema)
def list_tokens(operator: Operator, page: PageRequest, only: TokenFilter) -> Page[TokenView]:
    """List the workspace's tokens, newest first, revoked and expired ones included."""
    return tokens.list_tokens(management_database(), operator, only, page)


@blueprint.operation("GET", "/v1/tokens/<token_id>", role=Role.AUDITOR)
@blueprint.response(200, schemas.TokenSchema)
def read_token(operator: Operator, token_id: str) -> tuple[TokenView, Headers]:
    """Read a token."""
    return shown(tokens.read_token(management_database(), operator, token_id))


@blueprint.operation(
    "POST",
    "/v1/tokens/<token_id>/revoke",
    role=Role.ADMIN,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_token",
)
@blueprint.response(200, schemas.TokenSchema)
def revoke_token(operator: Operator, token_id: str) -> tuple[TokenView, Headers]:
    """Revoke a token for good: once this is answered, it opens nothing. Safe to repeat."""
    return shown(tokens.revoke_token(management_database(), operator, target(token_id)))
