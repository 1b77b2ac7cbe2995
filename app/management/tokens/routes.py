"""/v1/tokens: the management tokens themselves."""

from typing import Any

from marshmallow import fields, post_load, validate

from app.context import current_context, urgent_database
from app.errors import CredentialAlreadyShown, PreconditionFailed
from app.management.common.blueprint import ManagementBlueprint
from app.management.common.lifetimes import CredentialState
from app.management.common.openapi import CREATED, SHOWN
from app.management.common.operators import Operator, Role
from app.management.common.paging import Page, PageRequest
from app.management.common.parsing import target
from app.management.common.responses import Headers, created, shown
from app.management.common.schemas import (
    ObjectSchema,
    PageQuerySchema,
    RequestSchema,
    choice_field,
    expires_within_field,
    expiry_field,
    id_field,
    label_field,
    moment_field,
    page_schema,
)
from app.management.tokens import domain as tokens
from app.management.tokens.domain import IssuedToken, NewToken, TokenFilter, TokenView

blueprint = ManagementBlueprint("tokens", __name__, description="Credentials of operators")

_PROJECTS_MAX = 100


class TokenCreateSchema(RequestSchema):
    """The body that issues a token."""

    label = label_field()
    role = choice_field(Role, required=True)
    project_ids = fields.List(
        id_field("one that nobody has is refused by its place"),
        allow_none=True,
        validate=validate.Length(1, _PROJECTS_MAX),
        metadata={"description": "The projects that it reaches; null: the whole workspace."},
    )
    expires_at = expiry_field()

    @post_load
    def _new(self, data: dict[str, Any], **_: Any) -> NewToken:
        if data.get("project_ids") is not None:
            data["project_ids"] = tuple(dict.fromkeys(data["project_ids"]))
        return NewToken(**data)


class TokenQuerySchema(RequestSchema):
    """Which tokens a list shows."""

    state = choice_field(CredentialState)
    expires_within_days = expires_within_field()

    @post_load
    def _filter(self, data: dict[str, Any], **_: Any) -> TokenFilter:
        return TokenFilter(**data)


class TokenSchema(ObjectSchema):
    """A token, without its secret."""

    label = fields.String(required=True)
    role = choice_field(Role, required=True)
    project_ids = fields.List(
        fields.String(), required=True, allow_none=True, metadata={"description": "null: the whole workspace."}
    )
    state = choice_field(CredentialState, required=True)
    expires_at = moment_field(may_be_null=True)
    revoked_at = moment_field(may_be_null=True)
    last_used_at = moment_field(may_be_null=True)


class IssuedTokenSchema(TokenSchema):
    """A token in the one answer that carries it whole."""

    token = fields.String(required=True, metadata={"description": "For Authorization: Bearer. Shown this once."})


@blueprint.operation("POST", "/v1/tokens", role=Role.ADMIN, refuses=[CredentialAlreadyShown], shown_by="read_token")
@blueprint.arguments(TokenCreateSchema, example={"label": "dashboard", "role": "auditor"})
@blueprint.response(201, IssuedTokenSchema, headers=CREATED)
def issue_token(operator: Operator, new: NewToken) -> tuple[IssuedToken, Headers]:
    """Issue a management token, which may do no more than the one that issues it. This answer alone shows it."""
    context = current_context()
    token = tokens.issue_token(context.management.database, context.credentials, operator, new)
    return created(token, ".read_token", token_id=token.id)


@blueprint.operation("GET", "/v1/tokens", role=Role.AUDITOR)
@blueprint.arguments(PageQuerySchema, location="query")
@blueprint.arguments(TokenQuerySchema, location="query")
@blueprint.response(200, page_schema("TokenPage", TokenSchema))
def list_tokens(operator: Operator, page: PageRequest, only: TokenFilter) -> Page[TokenView]:
    """List the workspace's tokens, newest first, revoked and expired ones included."""
    return tokens.list_tokens(current_context().management.database, operator, only, page)


@blueprint.operation("GET", "/v1/tokens/<token_id>", role=Role.AUDITOR)
@blueprint.response(200, TokenSchema, headers=SHOWN)
def read_token(operator: Operator, token_id: str) -> tuple[TokenView, Headers]:
    """Read a token."""
    return shown(tokens.read_token(current_context().management.database, operator, token_id))


@blueprint.operation(
    "POST",
    "/v1/tokens/<token_id>/revoke",
    role=Role.ADMIN,
    refuses=[PreconditionFailed],
    is_urgent=True,
    shown_by="read_token",
)
@blueprint.response(200, TokenSchema, headers=SHOWN)
def revoke_token(operator: Operator, token_id: str) -> tuple[TokenView, Headers]:
    """Revoke a token for good: once this is answered, it opens nothing. Safe to repeat."""
    return shown(tokens.revoke_token(urgent_database(operator.token_public_id), operator, target(token_id)))
