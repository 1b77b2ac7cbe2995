"""Management tokens: the credentials of operators."""

from dataclasses import dataclass, field

from sqlalchemy.orm import Session

from app.credentials import Credentials
from app.management.changes import insert
from app.management.operators import Operator
from app.models import ManagementToken


@dataclass(frozen=True, kw_only=True, slots=True)
class IssuedToken:
    """A token in the one moment in which its plain text is known."""

    id: str
    token: str = field(repr=False)


def issue_token(session: Session, credentials: Credentials, operator: Operator, *, label: str) -> IssuedToken:
    """A new token for the operator's workspace."""
    key_id, plain_text, secret_hash = credentials.mint("mt")
    row = ManagementToken(
        public_id=f"tok_{key_id}", workspace_id=operator.workspace_id, label=label, secret_hash=secret_hash
    )
    insert(session, operator, row, "management_token.issue", {"label": label})
    return IssuedToken(id=row.public_id, token=plain_text)
