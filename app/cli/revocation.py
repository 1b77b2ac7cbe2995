"""Revokes one key or token of any workspace, by its public id."""

from typing import Final

from sqlalchemy import TextClause, text

from app.database.engine import Database, TenantScope
from app.errors import NotFound
from app.management.common.etags import Target
from app.management.common.lookup import is_public_id
from app.management.common.operators import Operator, at_the_shell
from app.management.keys.domain import KeyView, revoke_key
from app.management.tokens.domain import TokenView, revoke_token

# These run in no workspace, because they find it: a public id is unique in the installation.
_WORKSPACE_OF_KEY: Final = text("SELECT workspace_id FROM source_keys WHERE public_id = :public_id")
_WORKSPACE_OF_TOKEN: Final = text("SELECT workspace_id FROM management_tokens WHERE public_id = :public_id")


def revoke_any_key(database: Database, key_id: str) -> KeyView:
    """As revoke_key(). Raises NotFound, also for a key whose source or above is archived: it can store nothing."""
    try:
        return revoke_key(database, _owner_of(database, _WORKSPACE_OF_KEY, key_id), Target(key_id))
    except NotFound:
        raise NotFound("There is no source key in use with this id. The id of lrb_sk_<id>_… is key_<id>.") from None


def revoke_any_token(database: Database, token_id: str) -> TokenView:
    """As revoke_token(). Raises NotFound."""
    try:
        return revoke_token(database, _owner_of(database, _WORKSPACE_OF_TOKEN, token_id), Target(token_id))
    except NotFound:
        raise NotFound("There is no management token with this id. The id of lrb_mt_<id>_… is tok_<id>.") from None


def _owner_of(database: Database, statement: TextClause, public_id: str) -> Operator:
    if not is_public_id(public_id):
        raise NotFound
    with database.transaction(TenantScope.ALL) as session:
        workspace_row = session.execute(statement, {"public_id": public_id}).scalar_one_or_none()
    if workspace_row is None:
        raise NotFound
    return at_the_shell(workspace_row)
