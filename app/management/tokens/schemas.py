"""The bodies of tokens."""

from typing import Any, Final

from marshmallow import fields, post_load, validate

from app.management.common.lifetimes import CredentialState
from app.management.common.operators import Role
from app.management.common.schemas import (
    ObjectSchema,
    RequestSchema,
    choice_field,
    expires_within_field,
    expiry_field,
    id_field,
    label_field,
    moment_field,
    page_schema,
)
from app.management.tokens.domain import NewToken, TokenFilter

_PROJECTS_MAX: Final = 100


class TokenCreateSchema(RequestSchema):
    label = label_field()
    role = choice_field(Role, required=True)
    project_ids = fields.List(
        id_field("an unknown one is refused by its position"),
        allow_none=True,
        validate=validate.Length(1, _PROJECTS_MAX),
        metadata={"description": "The projects that it reaches; null: the whole workspace."},
    )
    expires_at = expiry_field()

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> NewToken:
        if data.get("project_ids") is not None:
            data["project_ids"] = tuple(dict.fromkeys(data["project_ids"]))
        return NewToken(**data)


class TokenQuerySchema(RequestSchema):
    makes = TokenFilter
    state = choice_field(CredentialState)
    expires_within_days = expires_within_field()


class TokenSchema(ObjectSchema):
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
    token = fields.String(required=True, metadata={"description": "For Authorization: Bearer. Shown this once."})


TokenPageSchema = page_schema("TokenPage", TokenSchema)
